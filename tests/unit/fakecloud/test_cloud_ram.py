import json
from pathlib import Path
from typing import Any

import pytest

from caa.fakecloud import FakeCloudSettings
from caa.fakecloud.errors import ApiError
from caa.fakecloud.keys import AccessKey
from caa.fakecloud.policy import PolicyError, parse_policy
from caa.fakecloud.ram import Ram
from caa.fakecloud.resources import resources_of

USER = AccessKey("id", "secret")
SESSION = AccessKey("STS.id", "secret", "token", session="caa-node-1")
RUN = {
    "RegionId": "cn-beijing",
    "ImageId": "m-1",
    "VSwitchId": "vsw-1",
    "SecurityGroupIds.1": "sg-1",
    "SecurityGroupIds.2": "sg-2",
    "KeyPairName": "",
    "NetworkInterface.1.NetworkInterfaceId": "eni-1",
    "NetworkInterface.2.SecurityGroupIds.1": "sg-3",
    "Tag.1.Value": "x",
}


def _of(permission: str, parameters: dict[str, str]) -> list[str]:
    service, _, action = permission.partition(":")
    return resources_of(service, action, parameters, region="r", account="1")


@pytest.mark.parametrize(
    ("permission", "parameters", "resources"),
    [
        (
            "ecs:RunInstances",
            RUN,
            [
                "acs:ecs:r:1:instance/*",
                "acs:ecs:r:1:image/m-1",
                "acs:ecs:r:1:eni/eni-1",
                "acs:ecs:r:1:securitygroup/sg-1",
                "acs:ecs:r:1:securitygroup/sg-2",
                "acs:ecs:r:1:securitygroup/sg-3",
                "acs:vpc:r:1:vswitch/vsw-1",
            ],
        ),
        ("ecs:DeleteInstance", {"InstanceId": "i-1", "Force": "true"}, ["acs:ecs:r:1:instance/i-1"]),
        ("ecs:DeleteInstance", {}, ["acs:ecs:r:1:*"]),
        ("vpc:AllocateEipAddress", {}, ["acs:vpc:r:1:eip/*"]),
        ("vpc:ReleaseEipAddress", {"AllocationId": "eip-1"}, ["acs:vpc:r:1:eip/eip-1"]),
        (
            "ecs:TagResources",
            {"ResourceType": "Instance", "ResourceId.1": "i-1", "ResourceId.2": "i-2", "Tag.1.Key": "k"},
            ["acs:ecs:r:1:instance/i-1", "acs:ecs:r:1:instance/i-2"],
        ),
        ("vpc:TagResources", {"ResourceType": "EIP", "ResourceId.1": "eip-1"}, ["acs:vpc:r:1:eip/eip-1"]),
        ("ecs:CreateUnicorn", {"InstanceId": "i-1"}, ["acs:ecs:r:1:*"]),
    ],
)
def test_what_a_call_is_about(permission: str, parameters: dict[str, str], resources: list[str]) -> None:
    assert _of(permission, parameters) == resources


def _ram(tmp_path: Path, *statements: dict[str, Any], **settings: Any) -> Ram:
    if statements:
        file = tmp_path / "policy.json"
        file.write_text(json.dumps({"Version": "1", "Statement": statements}))
        settings["policy"] = str(file)
    return Ram(FakeCloudSettings(dir=tmp_path, **settings), issuer="http://issuer")


def _denied(ram: Ram, key: AccessKey, permission: str, **parameters: str) -> dict[str, Any]:
    service, _, action = permission.partition(":")
    with pytest.raises(ApiError) as refusal:
        ram.authorize_call(key, service, action, parameters, address="127.0.0.1")
    assert (refusal.value.status, refusal.value.code) == (403, "Forbidden.RAM")
    detail = refusal.value.details["AccessDeniedDetail"]
    assert isinstance(detail, dict)
    return detail


def test_how_a_refusal_looks(tmp_path: Path) -> None:
    detail = _denied(_ram(tmp_path), SESSION, "ecs:DescribeInstances")
    assert detail == {
        "AuthAction": "ecs:DescribeInstances",
        "AuthPrincipalType": "AssumedRoleUser",
        "AuthPrincipalOwnerId": "1000000000000001",
        "AuthPrincipalDisplayName": "caa-alibaba:caa-node-1",
        "NoPermissionType": "ImplicitDeny",
        "PolicyType": "AccountLevelIdentityBasedPolicy",
    }
    deny = {"Effect": "Deny", "Action": "ecs:DescribeInstances", "Resource": "*"}
    detail = _denied(_ram(tmp_path, deny), USER, "ecs:DescribeInstances")
    assert (detail["NoPermissionType"], detail["AuthPrincipalType"]) == ("ExplicitDeny", "SubUser")


def test_every_resource_of_a_call_has_to_be_allowed(tmp_path: Path) -> None:
    kinds = ["ecs:*:*:instance", "ecs:*:*:image", "ecs:*:*:eni", "ecs:*:*:securitygroup", "vpc:*:*:vswitch"]
    for missing in (None, *kinds):
        resources = [f"acs:{kind}/*" for kind in kinds if kind != missing]
        ram = _ram(tmp_path, {"Effect": "Allow", "Action": "ecs:RunInstances", "Resource": resources})
        if missing:
            _denied(ram, USER, "ecs:RunInstances", **RUN)
        else:
            ram.authorize_call(USER, "ecs", "RunInstances", RUN, address="")


def test_one_denied_resource_is_enough(tmp_path: Path) -> None:
    allow = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    deny = {"Effect": "Deny", "Action": "ecs:*", "Resource": "acs:ecs:*:*:securitygroup/sg-3"}
    ram = _ram(tmp_path, allow, deny)
    assert _denied(ram, USER, "ecs:RunInstances", **RUN)["NoPermissionType"] == "ExplicitDeny"
    both = _ram(tmp_path, allow | {"Resource": "acs:ecs:*:*:instance/*"}, deny)
    assert _denied(both, USER, "ecs:RunInstances", **RUN)["NoPermissionType"] == "ExplicitDeny"
    without = {name: value for name, value in RUN.items() if value != "sg-3"}
    ram.authorize_call(USER, "ecs", "RunInstances", without, address="")


def test_a_sessions_policy_only_takes_away(tmp_path: Path) -> None:
    document = '{"Version": "1", "Statement": [{"Effect": "Allow", "Action": "ecs:De*", "Resource": "*"}]}'
    narrow = AccessKey("STS.id", "secret", "token", session="s", session_policy=parse_policy(document))
    ram = _ram(tmp_path)
    ram.authorize_call(narrow, "ecs", "DeleteInstance", {"InstanceId": "i-1"}, address="")
    assert _denied(ram, narrow, "ecs:RunInstances", **RUN)["PolicyType"] == "SessionPolicy"
    detail = _denied(ram, narrow, "ecs:DescribeInstances")
    assert detail["PolicyType"] == "AccountLevelIdentityBasedPolicy"


def test_added_actions(tmp_path: Path) -> None:
    ram = _ram(tmp_path, allow=("ecs:Describe*",))
    ram.authorize_call(USER, "ecs", "DescribeInstances", {}, address="")
    _denied(ram, USER, "ecs:TagResources")
    _ram(tmp_path, policy="full").authorize_call(USER, "ecs", "TagResources", {}, address="")


@pytest.mark.parametrize("what", ["policy", "trust_policy"])
@pytest.mark.parametrize(("content", "says"), [(b"{", "not JSON"), (b"\xff", "utf-8")])
def test_a_file_that_is_no_policy(tmp_path: Path, what: str, content: bytes, says: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(PolicyError, match=rf"x\.json can't be used as a RAM policy: .*{says}"):
        _ram(tmp_path, **{what: str(file) if what == "policy" else file})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="'fulll' is neither published nor full nor a file"):
        _ram(tmp_path, policy="fulll")
    with pytest.raises(PolicyError, match="No such file"):
        _ram(tmp_path, trust_policy=tmp_path / "none.json")


def test_an_action_to_allow_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="the actions to allow: 'DescribeInstances' is not of"):
        _ram(tmp_path, allow=("DescribeInstances",))


def test_trust(tmp_path: Path) -> None:
    ram = _ram(tmp_path)
    settings = FakeCloudSettings(dir=tmp_path)
    good = {"iss": "http://issuer", "aud": ["x", "sts.aliyuncs.com"], "sub": settings.service_account}
    assert ram.trusts(good)
    assert ram.trusts(good | {"aud": "sts.aliyuncs.com"})
    for claim, value in [("iss", "http://other"), ("aud", ["x"]), ("aud", None), ("sub", "x"), ("sub", 1)]:
        assert not ram.trusts(good | {claim: value})


def test_another_trust_policy(tmp_path: Path) -> None:
    file = tmp_path / "trust.json"
    statement = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Federated": "acs:ram::*:oidc-provider/ack-rrsa-local"},
        "Condition": {"StringLike": {"oidc:sub": "system:serviceaccount:default:*"}},
    }
    file.write_text(json.dumps({"Version": "1", "Statement": [statement]}))
    ram = _ram(tmp_path, trust_policy=file)
    assert ram.trusts({"sub": "system:serviceaccount:default:caa"})
    assert not ram.trusts({"sub": "system:serviceaccount:kube-system:caa"})
