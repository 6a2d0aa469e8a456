import asyncio
from typing import Any, cast

import pytest

from caa.errors import Code, ResourceExhaustedError
from caa.hypervisor import HypervisorService, Lifecycle
from caa.proto import hypervisor_pb2
from caa.ttrpc import CallContext

CONTEXT = CallContext(metadata={}, deadline=None)


class Outcomes:
    """A service whose lifecycle ends StartVM in a given way, and what its observer is told."""

    def __init__(self, ends: BaseException | None = None) -> None:
        self.ends = ends
        self.told: list[tuple[str, Code]] = []
        self.service = HypervisorService(cast(Lifecycle, self), on_rpc=self._told)

    def _told(self, method: str, code: Code, seconds: float) -> None:
        assert seconds >= 0
        self.told.append((method, code))

    def names(self, sandbox_id: str) -> dict[str, str]:
        return {"sandbox": sandbox_id}

    async def start(self, _sandbox_id: str) -> None:
        if self.ends:
            raise self.ends


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (None, Code.OK),
        (ResourceExhaustedError("no stock"), Code.RESOURCE_EXHAUSTED),
        (asyncio.CancelledError(), Code.CANCELLED),
        (ZeroDivisionError(), Code.UNKNOWN),
    ],
    ids=str,
)
async def test_each_call_is_told_with_its_outcome_which_stays_as_it_is(
    ends: BaseException | None, code: Code
) -> None:
    outcomes = Outcomes(ends)
    request: Any = hypervisor_pb2.StartVMRequest(id="s")
    if ends is None:
        await outcomes.service.StartVM(request, CONTEXT)
    else:
        with pytest.raises(type(ends)):
            await outcomes.service.StartVM(request, CONTEXT)
    assert outcomes.told == [("StartVM", code)]


async def test_a_request_that_is_refused_before_the_lifecycle_is_told_too() -> None:
    outcomes = Outcomes()
    with pytest.raises(Exception, match="the sandbox id is empty"):
        await outcomes.service.CreateVM(hypervisor_pb2.CreateVMRequest(), CONTEXT)
    assert outcomes.told == [("CreateVM", Code.INVALID_ARGUMENT)]
