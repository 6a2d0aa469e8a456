"""The whole of `caa check`: both sides at once."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from caa.check.host import host_checks
from caa.checking import Check, Finding, Result, failed, in_thread, run_checks
from caa.config import Settings
from caa.errors import CaaError, StartupError
from caa.tunnel import worker_address

TIMEOUT = 40.0
"""Seconds for each check, which end together: so long does the whole take at most."""

Begun = Callable[[Sequence[Check]], None]
Ended = Callable[[Result], None]


async def run_all(settings: Settings, *, on_begin: Begun, on_result: Ended) -> list[Result]:
    """Run all checks of host and cloud side by side, after `on_begin` was told which they are."""
    from caa.providers.alibabacloud import preflight  # noqa: PLC0415  the SDK is slow to import

    async with AsyncExitStack() as closing:
        checks = host_checks(settings)
        try:
            _, worker = await in_thread(lambda: worker_address(settings.host_interface))
        except CaaError:
            worker = None  # the host's check tells
        try:
            subject = await closing.enter_async_context(
                preflight.subject_of(
                    settings.alibabacloud,
                    second_interface=settings.ext_network_via_podvm,
                    worker=worker,
                    forwarder_port=settings.forwarder_port,
                    vxlan_port=settings.vxlan_port,
                )
            )
            checks = [*await closing.enter_async_context(preflight.checks(subject)), *checks]
        except StartupError as error:
            told = failed(str(error))
            checks.insert(0, Check(preflight.CREDENTIALS, "credentials", lambda: _told(told)))
        on_begin(checks)
        return await run_checks(checks, timeout=TIMEOUT, on_result=on_result)


async def _told(finding: Finding) -> Finding:
    return finding
