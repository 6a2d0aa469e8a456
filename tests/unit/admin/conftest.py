"""Sandboxes to look at, without a daemon."""

from typing import Any

import pytest

from caa.sandbox import Event, Life, Sandbox, State

MARKER = "-----BEGIN EC PRIVATE KEY-----"


class Making:
    def sandbox(self, sandbox_id: str = "41083419a7b2", **changes: Any) -> Sandbox:
        values: dict[str, Any] = {
            "id": sandbox_id,
            "pod_name": "web",
            "pod_namespace": "default",
            "netns": "/run/netns/web",
            "name": "podvm-web-41083419",
            "slot": 0,
            "boot_id": "boot",
            "state": State.RUNNING,
            "network": {"vxlan-id": 555000},
            "holding": {"RunInstances": {"UserData": MARKER}},
            "instance_id": "i-2zetp8uu8xkcat5p8t2o",
            "addresses": ("10.0.0.12",),
        }
        return Sandbox(**values | changes)

    def life(self, sandbox_id: str = "41083419a7b2", **changes: Any) -> Life:
        own = {
            name: changes.pop(name)
            for name in ("began", "since", "ended", "events", "left_out", "wrong")
            if name in changes
        }
        sandbox = self.sandbox(sandbox_id, **changes).learn(holding={})
        events: tuple[Event, ...] = own.get("events", ())
        return Life(
            sandbox=sandbox,
            began=own.get("began", 1_790_000_000.0),
            since=own.get("since", 1_790_000_001.5),
            ended=own.get("ended"),
            error=own.get("wrong", sandbox.error),
            events=events,
            left_out=own.get("left_out", 0),
        )


@pytest.fixture
def make() -> Making:
    return Making()
