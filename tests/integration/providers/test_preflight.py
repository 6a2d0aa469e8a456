"""What can be asked of the cloud before the first pod, with each answer that there is."""

import email.utils
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from typing import Any

import pytest

from caa.checking import Finding, Result, Verdict, run_checks
from caa.config import load
from caa.errors import StartupError
from caa.fakecloud import Fault, LocalCloud, Rule, SecurityGroup
from caa.providers.alibabacloud import preflight
from caa.providers.alibabacloud.preflight import endpoints, questions

StartCloud = Callable[..., Awaitable[LocalCloud]]

WORKER = IPv4Address("10.64.0.7")
VPC = "vpc-2zelocalcloud0000000"
OPEN = SecurityGroup("sg-2zeopen00000000000000", VPC, rules=(Rule("ALL", "-1/-1", "10.64.0.0/16"),))
SHUT = SecurityGroup(
    "sg-2zeshut00000000000000", VPC, rules=(Rule("ALL", "-1/-1", "0.0.0.0/0", accept=False),)
)
AWAY = SecurityGroup("sg-2zeaway00000000000000", "vpc-2zesomeothervpc00000")
MAKE = {"RunInstances", "CreateNetworkInterface", "AllocateEipAddress"}


async def results(
    cloud: LocalCloud, *, second: bool = False, worker: IPv4Address | None = WORKER, **environ: str
) -> list[Result]:
    settings = load({}, dict(cloud.environment) | environ).alibabacloud
    async with (
        preflight.subject_of(settings, second_interface=second, worker=worker) as subject,
        preflight.checks(subject) as checks,
    ):
        return await run_checks(checks, timeout=30)


async def findings(cloud: LocalCloud, **given: Any) -> dict[str, Finding]:
    return {result.what: result.finding for result in await results(cloud, **given)}


def verdicts(found: dict[str, Finding]) -> dict[str, Verdict]:
    return {what: finding.verdict for what, finding in found.items()}


def nothing_was_made(cloud: LocalCloud) -> bool:
    made = [call for call in cloud.calls if call.action in MAKE and call.outcome == "ok"]
    return not list(cloud.instances) and not made


@pytest.mark.parametrize("credentials", ["rrsa", "keys"])
@pytest.mark.parametrize("features", [{}, {"second": True}, {"second": True, "USE_PUBLIC_IP": "true"}])
async def test_the_published_policy_will_do(
    start_cloud: StartCloud, credentials: str, features: dict[str, Any]
) -> None:
    cloud = await start_cloud(credentials=credentials)
    found = await findings(cloud, **features)
    assert Verdict.FAILED not in verdicts(found).values(), found
    assert found["ecs:RunInstances"].verdict is Verdict.OK
    assert found["a pod VM, by dry run"].verdict is Verdict.OK
    assert found["ecs:DescribeInstances"].verdict is Verdict.WARNING
    assert found["image"] == Finding(
        Verdict.SKIPPED,
        "can't be told without ecs:DescribeImages",
        "optional: `caa ram policy --optional check`",
    )
    needed = Verdict.OK if features else Verdict.SKIPPED
    assert found["ecs:CreateNetworkInterface"].verdict is needed
    needed = Verdict.OK if "USE_PUBLIC_IP" in features else Verdict.SKIPPED
    assert found["vpc:ReleaseEipAddress"].verdict is needed
    assert found["vpc:AllocateEipAddress"].verdict is Verdict.SKIPPED
    assert nothing_was_made(cloud)


async def test_every_right(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(credentials="keys", policy="full")
    found = await findings(cloud, second=True, USE_PUBLIC_IP="true", KEYNAME="local-key")
    assert {what for what, finding in found.items() if finding.verdict is not Verdict.OK} == {
        "vpc:AllocateEipAddress",
        "worker and pod VM",
    }, found
    assert "Available" in found["image"].seen
    assert "in stock: ecs.g8i.xlarge in cn-beijing-i" in found["instance types"].seen
    assert "public address" in found["worker and pod VM"].seen
    assert (await findings(cloud))["worker and pod VM"].seen.startswith("TCP 15150 and UDP 4789 pass, with")
    assert found["credentials"].seen.startswith("access key LTAI")
    assert nothing_was_made(cloud)


@pytest.mark.parametrize(
    "action",
    [
        "ecs:RunInstances",
        "ecs:DeleteInstance",
        "vpc:ReleaseEipAddress",
        "ecs:DeleteNetworkInterface",
        "vpc:DescribeVSwitchAttributes",
    ],
)
async def test_a_right_that_lacks(start_cloud: StartCloud, action: str) -> None:
    cloud = await start_cloud(credentials="keys", policy="full")
    name = action.partition(":")[2]
    cloud.faults.add(Fault(action=name, code="Forbidden.RAM", share=1.0))
    found = await findings(cloud, second=True, USE_PUBLIC_IP="true")
    assert found[action].verdict is Verdict.FAILED
    assert found[action].seen.startswith("not granted: ")
    assert found[action].remedy == "grant what `caa ram policy --second-interface --public-ip` prints"
    failures = {what for what, finding in found.items() if finding.verdict is Verdict.FAILED}
    assert failures == {action}


@pytest.mark.parametrize(
    ("environ", "failing", "told"),
    [
        ({"IMAGEID": "m-missing"}, "image", "m-missing not in cn-beijing"),
        ({"IMAGEID": "m-missing"}, "a pod VM, by dry run", r"InvalidImageId\.NotFound"),
        ({"VSWITCH_ID": "vsw-missing"}, "vSwitch", "vsw-missing"),
        ({"SECURITY_GROUP_IDS": "sg-missing"}, "security group", "InvalidSecurityGroupId"),
        ({"SECURITY_GROUP_IDS": AWAY.id}, "security group", "in vpc-2zesomeothervpc00000, and"),
        (
            {"SECURITY_GROUP_IDS": SHUT.id},
            "worker and pod VM",
            "closed for TCP 15150 and UDP 4789 from 10.64.0.7 .*PortRange 4789",
        ),
        ({"KEYNAME": "missing"}, "key pair", "missing not in cn-beijing"),
        ({"PODVM_INSTANCE_TYPE": "ecs.missing.large"}, "instance types", "ecs.missing.large not sold"),
        ({"ALIBABACLOUD_ACCESS_KEY_SECRET": "wrong"}, "credentials", "SignatureDoesNotMatch"),
    ],
)
async def test_a_setting_that_is_wrong(
    start_cloud: StartCloud, environ: dict[str, str], failing: str, told: str
) -> None:
    cloud = await start_cloud(credentials="keys", policy="full", security_groups=(OPEN, SHUT, AWAY))
    found = await findings(cloud, **environ)
    assert found[failing].verdict is Verdict.FAILED, found
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(f"{found[failing].seen} {found[failing].remedy}")


async def test_the_worker_outside_of_what_the_rules_let_in(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(credentials="keys", policy="full")
    found = await findings(cloud, worker=IPv4Address("172.16.0.1"))
    assert found["worker and pod VM"].verdict is Verdict.WARNING
    assert "--Permissions.1.SourceCidrIp 172.16.0.1/32" in found["worker and pod VM"].remedy
    found = await findings(cloud, worker=None)
    assert found["worker and pod VM"].verdict is Verdict.SKIPPED


async def test_sold_out_is_a_warning(start_cloud: StartCloud) -> None:
    stock = {("cn-beijing-i", "ecs.g8i.xlarge"): 0}
    cloud = await start_cloud(credentials="keys", policy="full", stock=stock)
    found = await findings(cloud)
    assert found["instance types"].verdict is Verdict.WARNING
    assert found["a pod VM, by dry run"].verdict is Verdict.WARNING


async def test_without_credentials_nothing_else_is_asked(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(credentials="rrsa")
    found = await findings(cloud, ALIBABA_CLOUD_ROLE_ARN="acs:ram::1:role/other")
    assert found["credentials"].verdict is Verdict.FAILED
    assert "check ALIBABA_CLOUD_ROLE_ARN" in found["credentials"].seen
    assert found["token"].verdict is Verdict.OK
    others = {
        finding.seen
        for what, finding in found.items()
        if what in ("vSwitch", "image", "ecs:RunInstances", "a pod VM, by dry run")
    }
    assert others == {"not asked, for want of credentials"}
    assert {call.action for call in cloud.calls} <= {"AssumeRoleWithOIDC", ""}


async def test_verify_names_all_that_failed(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(credentials="keys", policy="full")
    settings = load({}, {**cloud.environment, "IMAGEID": "m-missing", "KEYNAME": "missing"}).alibabacloud
    async with preflight.subject_of(settings) as subject:
        with pytest.raises(StartupError) as caught:
            await preflight.verify(subject)
    told = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in told] == ["image", "key pair", "a pod VM, by dry run"]


async def test_verify_of_what_is_well(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(credentials="rrsa")
    settings = load({}, cloud.environment).alibabacloud
    async with preflight.subject_of(settings) as subject:
        await preflight.verify(subject)


async def test_a_cloud_that_is_not_there(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(credentials="rrsa")
    found = await findings(cloud, ALIBABACLOUD_ECS_ENDPOINT="http://127.0.0.1:9")
    assert found["ECS endpoint"].seen == "http://127.0.0.1:9: no answer (Connection refused)"
    assert "check REGION, this node's way out" in found["ECS endpoint"].remedy
    assert found["VPC endpoint"].verdict is found["credentials"].verdict is Verdict.OK
    assert found["vSwitch"].seen == "not asked, as the cloud is out of reach"


async def test_an_endpoint_that_is_not_trusted(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(credentials="keys", tls=True)
    found = await findings(cloud)
    assert found["ECS endpoint"].verdict is Verdict.OK
    found = await findings(cloud, ALIBABACLOUD_CA_FILE="")
    assert "untrusted certificate" in found["ECS endpoint"].seen
    assert "ALIBABACLOUD_CA_FILE" in found["ECS endpoint"].remedy


@pytest.mark.parametrize(
    ("off", "verdict", "told"),
    [
        (0, Verdict.OK, "answers"),
        (-120, Verdict.WARNING, "120 s behind"),
        (120, Verdict.WARNING, "120 s ahead"),
        (1000, Verdict.FAILED, "1000 s ahead"),
    ],
)
def test_clocks(monkeypatch: pytest.MonkeyPatch, off: float, verdict: Verdict, told: str) -> None:
    now = 1.8e9
    monkeypatch.setattr(time, "time", lambda: now)
    finding = endpoints._compared("https://ecs", email.utils.formatdate(now - off, usegmt=True))
    assert finding.verdict is verdict
    assert finding.seen.endswith(told)


async def test_sts_out_of_reach_does_not_matter_to_an_access_key(
    start_cloud: StartCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "ASK_TIMEOUT", 0.3)
    cloud = await start_cloud(credentials="keys")
    found = await findings(cloud, ALIBABACLOUD_STS_ENDPOINT="http://127.0.0.1:9")
    assert found["credentials"].verdict is Verdict.WARNING
    assert "whose it is can't be told" in found["credentials"].seen
    assert found["vSwitch"].verdict is Verdict.OK
