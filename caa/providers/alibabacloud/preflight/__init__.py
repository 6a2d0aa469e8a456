"""What can be asked of the cloud before the first pod: credentials, rights, and whether the settings fit.

Nothing here makes or changes anything. It is used twice: by a daemon that starts with CLOUD_CONFIG_VERIFY
(`verify`), and by `caa check` (`subject_of` and `checks`).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog

from caa.checking import Check, Finding, Verdict, run_checks, skipped
from caa.config import AlibabaCloudSettings
from caa.errors import StartupError
from caa.providers.alibabacloud.client import ECS, VPC, Client
from caa.providers.alibabacloud.credentials import RoleSession, credentials_for
from caa.providers.alibabacloud.ordering import Orders, request_at
from caa.providers.alibabacloud.preflight.credentials import CredentialChecks
from caa.providers.alibabacloud.preflight.endpoints import EndpointChecks
from caa.providers.alibabacloud.preflight.questions import ASK_TIMEOUT, Questions
from caa.providers.alibabacloud.preflight.rights import RightChecks
from caa.providers.alibabacloud.preflight.settings import SettingChecks
from caa.providers.alibabacloud.preflight.subject import Subject
from caa.providers.alibabacloud.ram import Need, rights
from caa.providers.alibabacloud.sizes import SIZES
from caa.providers.base import VmOrder

__all__ = ["CREDENTIALS", "Subject", "a_pods_request", "checks", "subject_of", "verify"]

log = structlog.get_logger(__name__)

TIMEOUT = 40.0
"""Seconds for each check."""

CREDENTIALS, RIGHTS, SETTINGS = "Cloud", "Rights", "Cloud settings"


@asynccontextmanager
async def checks(subject: Subject) -> AsyncIterator[list[Check]]:
    """Independent of each other, to be run side by side inside the context."""
    questions = Questions(subject)
    try:
        yield list(_checks(subject, questions))
    finally:
        await questions.close()


def _checks(subject: Subject, questions: Questions) -> Iterator[Check]:
    credentials = CredentialChecks(subject, questions)
    endpoints = EndpointChecks(subject, questions)

    def signed_in(ask: Callable[[], Awaitable[Finding]]) -> Callable[[], Awaitable[Finding]]:
        async def asked() -> Finding:
            if await endpoints.are_out_of_reach():
                return skipped("not asked, as the cloud is out of reach")
            if await credentials.are_bad():
                return skipped("not asked, for want of credentials")
            return await ask()

        return asked

    yield Check(CREDENTIALS, "credentials", credentials.identity)
    if isinstance(subject.credentials, RoleSession):
        yield Check(CREDENTIALS, "token", partial(credentials.token, subject.credentials))
    for product in (ECS, VPC):
        yield Check(CREDENTIALS, f"{product.name.upper()} endpoint", partial(endpoints.endpoint, product))
    granted = RightChecks(subject, questions)
    for right in rights(list(Need)):
        # Those that only `caa check` needs are told of by the checks that lack them.
        if right.needs != {Need.CHECK}:
            yield Check(RIGHTS, right.action, signed_in(partial(granted.right, right)))
    for what, ask in SettingChecks(subject, questions).all():
        yield Check(SETTINGS, what, signed_in(ask))


async def verify(subject: Subject) -> None:
    """Run all checks. Raises StartupError that names every one that failed; warnings are logged."""
    problems = []
    async with checks(subject) as each:
        results = await run_checks(each, timeout=TIMEOUT)
    for result in results:
        finding = result.finding
        if finding.verdict is Verdict.FAILED:
            problems.append(": ".join(filter(None, (result.what, finding.seen, finding.remedy))))
        elif finding.verdict is Verdict.WARNING:
            log.warning("found at startup", check=result.what, seen=finding.seen, remedy=finding.remedy)
    if problems:
        raise StartupError("\n".join(problems))


@asynccontextmanager
async def subject_of(
    settings: AlibabaCloudSettings, *, second_interface: bool = False, **more: Any
) -> AsyncIterator[Subject]:
    """A subject with clients of its own, for a process that is no daemon. Raises StartupError for credentials
    or endpoints that can't be.
    """
    credentials = credentials_for(settings, sts_timeout=ASK_TIMEOUT)
    clients: list[Client] = []
    try:
        for product, endpoint in ((ECS, settings.ecs_endpoint), (VPC, settings.vpc_endpoint)):
            clients.append(
                Client(
                    product,
                    endpoint=endpoint,
                    region=settings.region,
                    ca_file=settings.ca_file,
                    credentials=credentials,
                )
            )
        ecs, vpc = clients
        yield Subject(
            settings=settings,
            credentials=credentials,
            ecs=ecs,
            vpc=vpc,
            run_instances=a_pods_request(settings, second_interface=second_interface),
            second_interface=second_interface,
            **more,
        )
    finally:
        for client in clients:
            await client.close()
        await credentials.close()


def a_pods_request(settings: AlibabaCloudSettings, *, second_interface: bool) -> Mapping[str, Any]:
    """The RunInstances request of a pod that asks for nothing."""
    order = Orders(settings, "dry-run").order(
        VmOrder(
            sandbox_id="dry-run",
            pod_name="dry-run",
            pod_namespace="dry-run",
            name="podvm-dry-run",
            user_data=b"#cloud-config\n",
            client_token="",
            # With a public address the interface is made apart, and only its id is in the request.
            second_interface=second_interface and not settings.use_public_ip,
        ),
        SIZES,
    )
    return request_at(order.places[0], order)
