"""What the reaper counts, beside what every program of ours does."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from caa.reaper.verdicts import Ground


class ReaperMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.leads = Gauge("caa_reaper_leads", "1 while this reaper is the one that acts.", registry=registry)
        self.held = Gauge("caa_reaper_peer_pods", "PeerPod objects with our finalizer.", registry=registry)
        self.due = Gauge(
            "caa_reaper_due", "Those whose pod or node has been gone for long enough.", registry=registry
        )
        self.braked = Gauge(
            "caa_reaper_braked", "1 while so many are due that none is reaped.", registry=registry
        )
        self.looked_at = Gauge(
            "caa_reaper_last_look_timestamp_seconds",
            "When all PeerPod objects that were to be looked at last were.",
            registry=registry,
        )
        self.reaped = Counter(
            "caa_reaper_reaped",
            "PeerPod objects whose instance was deleted, or was gone, and whose finalizer was removed.",
            ("ground",),
            registry=registry,
        )
        self.failures = Counter(
            "caa_reaper_failures", "Reapings that failed; each is tried again.", registry=registry
        )
        for ground in Ground:
            self.reaped.labels(ground.value)

    def forget(self) -> None:
        """What is to be done is another one's to tell from now on."""
        for gauge in (self.held, self.due, self.braked):
            gauge.set(0)
