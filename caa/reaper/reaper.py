"""Looks at all claims again and again, and reaps those whose pod or node is gone for good.

A round asks the API server about the pods and nodes of claims. What it can't ask about it does not judge: any
trouble ends the round, and nothing is reaped in it. What is due is asked about again, right before.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import structlog

from caa.errors import CaaError, FailedPreconditionError
from caa.kubernetes import Complaints
from caa.polling import growing
from caa.providers import SANDBOX, Reaping
from caa.reaper.brake import Brake
from caa.reaper.claims import Claim
from caa.reaper.looks import Looks
from caa.reaper.metrics import ReaperMetrics
from caa.reaper.patience import Patience
from caa.reaper.verdicts import Case, Graces, NodeSeen, Spared, judge, needs_node, not_its, unfit
from caa.reaper.watch import Claims

_log = structlog.get_logger(__name__)

ROUND = 15.0
"""Seconds between rounds."""
UNSUSPECTED = 120.0
"""Seconds after which a claim is looked at again whose object is not being deleted and whose pod was fine."""
_AGAIN_FIRST, _AGAIN_LONGEST = 4, 60
"""Rounds after which a reaping that failed is tried again."""
_SAMPLES = 3
_LOOKS_AT_ONCE = 8
"""Fewer than the API client lets through, so that the Lease's renewal never waits behind them."""


Disclaim = Callable[[str, str, str], Awaitable[bool]]
"""Given namespace, name and instance, removes our finalizer from that object, if it is that instance's, as
`caa.kubernetes.Cluster` does."""


class Reaper:
    """One term of leadership: what it has seen before counts for nothing."""

    def __init__(
        self,
        claims: Claims,
        looks: Looks,
        cloud: Reaping,
        disclaim: Disclaim,
        *,
        graces: Graces,
        brake: Brake,
        may_act: Callable[[], bool],
        metrics: ReaperMetrics,
        dry_run: bool,
        every: float = ROUND,
    ) -> None:
        """`may_act` is asked right before each deletion. `every` is the time between rounds, in seconds."""
        self._claims = claims
        self._looks = looks
        self._cloud = cloud
        self._disclaim = disclaim
        self._graces = graces
        self._brake = brake
        self._may_act = may_act
        self._metrics = metrics
        self._dry_run = dry_run
        self._every = every
        self._patience = Patience(longest_step=2 * every)
        self._complaints = Complaints()
        self._look_after: dict[str, float] = {}
        """Uids of unsuspected claims, and when to look at them again (loop time)."""
        self._again: dict[str, tuple[float, Iterator[float]]] = {}
        """Uids of claims whose reaping failed, when to try again (loop time), and the pauses after that."""
        self._places = asyncio.Semaphore(_LOOKS_AT_ONCE)
        self._cloud_proven = False
        """It has shown one of this cluster's instances: region and account are right."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._claims.complete:
                await self.round()
            await asyncio.sleep(self._every)

    async def round(self) -> None:
        """Look at all, and reap what is due. Raises no CaaError."""
        held = [claim for claim in self._claims if self._concerns(claim)]
        self._keep_only({claim.uid for claim in held})
        self._metrics.held.set(len(held))
        try:
            verdicts = await self._look_at(held)
        except CaaError as error:
            self._complaints.about(
                "looks", "not all pods and nodes can be looked at: nothing is judged", error=str(error)
            )
            return
        self._complaints.over("looks", "pods and nodes can be looked at again")
        now = asyncio.get_running_loop().time()
        self._patience.looked(now)
        self._metrics.looked_at.set_to_current_time()
        lasting = self._lasting(verdicts)
        self._metrics.due.set(len(lasting))
        due = [(claim, case) for claim, case in lasting if self._may_try(claim, now)]
        if why := self._brake.holds(len(due), len(held), now):
            self._metrics.braked.set(1)
            self._complaints.about(
                "brake",
                "nothing is reaped: too much is due at once; see whether the cluster is in order, and if it"
                " is, allow it with --max-share (REAPER_MAX_SHARE)",
                reason=why,
            )
            return
        self._metrics.braked.set(0)
        self._complaints.over("brake", "no more is due at once than may be")
        async with asyncio.TaskGroup() as side_by_side:
            for claim, case in due:
                if self._dry_run or self._brake.take(now):
                    side_by_side.create_task(self._try_to_reap(claim, case))

    def _concerns(self, claim: Claim) -> bool:
        """Whether there is anything to be found out about it."""
        spared = unfit(claim)
        if spared and spared.odd:
            self._leave_alone(claim, spared.why)
        return spared is None

    def _leave_alone(self, claim: Claim, why: str) -> None:
        path = f"{claim.namespace}/{claim.name}"
        self._complaints.about(claim.uid, "a PeerPod object is left alone", object=path, reason=why)

    # Looking

    async def _look_at(self, held: list[Claim]) -> list[tuple[Claim, Case | Spared]]:
        """The verdicts of this round. Raises CaaError if one of them can't be had."""
        now = asyncio.get_running_loop().time()
        wanted = [claim for claim in held if claim.deleting or now >= self._look_after.get(claim.uid, 0.0)]
        nodes: dict[str, NodeSeen | None] = {}
        verdicts: list[tuple[Claim, Case | Spared]] = []
        failures: list[CaaError] = []

        async def look(claim: Claim) -> None:
            async with self._places:
                if failures:
                    return
                try:
                    verdicts.append((claim, await self._ask(claim, nodes)))
                except CaaError as error:
                    failures.append(error)

        async with asyncio.TaskGroup() as side_by_side:
            for claim in wanted:
                side_by_side.create_task(look(claim))
        if failures:
            raise failures[0]
        for claim, verdict in verdicts:
            if isinstance(verdict, Spared):
                self._look_after[claim.uid] = now + UNSUSPECTED
            else:
                self._look_after.pop(claim.uid, None)
        return verdicts

    async def _ask(self, claim: Claim, nodes: dict[str, NodeSeen | None]) -> Case | Spared:
        """The verdict by what the API server says now; of `nodes`, said before. Raises CaaError."""
        pod, node = await self._looks.pod(claim.namespace, claim.pod), None
        if pod and needs_node(claim, pod):
            if pod.node not in nodes:
                nodes[pod.node] = await self._looks.node(pod.node)
            node = nodes[pod.node]
        return judge(claim, pod, node, self._graces)

    def _lasting(self, verdicts: list[tuple[Claim, Case | Spared]]) -> list[tuple[Claim, Case]]:
        """Those whose ground has lasted, and whose instance nobody else may be using."""
        lasting = []
        for claim, verdict in verdicts:
            if isinstance(verdict, Spared):
                self._patience.over(claim.uid)
            elif self._patience.lasted(claim.uid, verdict.occasion) >= verdict.wait:
                lasting.append((claim, verdict))
        ending = {claim.uid for claim, _ in lasting}
        in_use = {claim.instance for claim in self._claims if claim.uid not in ending}
        for claim, _ in lasting:
            if claim.instance in in_use:
                self._leave_alone(claim, f"another one names its instance, {claim.instance}, too")
        return [(claim, case) for claim, case in lasting if claim.instance not in in_use]

    def _may_try(self, claim: Claim, now: float) -> bool:
        return claim.uid not in self._again or now >= self._again[claim.uid][0]

    def _keep_only(self, uids: set[str]) -> None:
        self._patience.keep_only(uids)
        self._look_after = {uid: after for uid, after in self._look_after.items() if uid in uids}
        self._again = {uid: again for uid, again in self._again.items() if uid in uids}

    # Reaping

    async def _try_to_reap(self, claim: Claim, case: Case) -> None:
        SANDBOX.set(claim.sandbox)
        about = {
            "pod": f"{claim.namespace}/{claim.pod}",
            "object": claim.name,
            "instance": claim.instance,
            "ground": case.ground.value,
        }
        with structlog.contextvars.bound_contextvars(**about):
            try:
                await self._reap(claim, case)
            except CaaError as error:
                self._metrics.failures.inc()
                _, pauses = self._again.get(claim.uid, (0.0, growing(_AGAIN_FIRST, 2.0, _AGAIN_LONGEST)))
                pause = next(pauses) * self._every
                self._again[claim.uid] = (asyncio.get_running_loop().time() + pause, pauses)
                _log.warning("not reaped", error=str(error), again_in=pause)

    async def _reap(self, claim: Claim, case: Case) -> None:
        instance = await self._cloud.labels(claim.instance)
        if instance is None:
            await self._prove_cloud()
        else:
            self._cloud_proven = True
            if why_not := not_its(claim, instance):
                raise FailedPreconditionError(
                    f"the instance is left alone: {why_not}; if nobody needs it, delete it by hand, and"
                    " remove the PeerPod object's finalizer"
                )
        if not await self._is_still_so(claim, case):
            return
        if self._dry_run:
            self._complaints.about(claim.uid, "would be reaped, but for --dry-run")
            return
        if not self._may_act():
            return
        _log.info("reaping", found=instance is not None)
        tagged = instance.tags.get("caa-sandbox", "") if instance else ""
        await self._cloud.reap(claim.instance, tagged or claim.sandbox)
        await self._disclaim(claim.namespace, claim.name, claim.instance)
        self._claims.drop(claim)
        self._metrics.reaped.labels(case.ground.value).inc()
        _log.info("reaped")

    async def _is_still_so(self, claim: Claim, case: Case) -> bool:
        """By what the API server says now. Raises CaaError if it does not."""
        found = await self._looks.claim(claim.namespace, claim.name)
        if found is None:
            self._claims.drop(claim)
            return False
        if (found.uid, found.instance, found.pod_uid) != (claim.uid, claim.instance, claim.pod_uid):
            return False
        return await self._ask(found, {}) == case

    async def _prove_cloud(self) -> None:
        """An instance is not found. That it is gone is believed only if this is the cloud where the others
        are: with the wrong region, none would ever be found, and each finalizer would be taken away from one
        that runs on. Raises FailedPreconditionError.
        """
        others = [claim for claim in self._claims if unfit(claim) is None and not claim.deleting][:_SAMPLES]
        for claim in others:
            if self._cloud_proven:
                return
            self._cloud_proven = await self._cloud.labels(claim.instance) is not None
        if others and not self._cloud_proven:
            raise FailedPreconditionError(
                "the instance is not found, and neither are those of pods that exist: REGION or the account"
                " is another one than the daemons'"
            )
