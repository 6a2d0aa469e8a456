import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import caa.providers.alibabacloud as package
from caa.providers.alibabacloud.ram import OPTIONAL, PUBLISHED, RIGHTS, Need, needs, policy, trust

LEAST = needs(second_interface=False, public_ip=False)
FULL = needs(second_interface=True, public_ip=True)


def actions(document: Mapping[str, Any]) -> set[str]:
    listed = [statement["Action"] for statement in document["Statement"]]
    return {action for each in listed for action in ([each] if isinstance(each, str) else each)}


def test_what_is_needed_is_published() -> None:
    assert actions(policy(FULL)) <= actions(PUBLISHED)
    assert not actions(policy(OPTIONAL)) & actions(PUBLISHED)


def test_each_feature_brings_its_rights() -> None:
    assert actions(policy(LEAST)) == {
        "ecs:RunInstances",
        "ecs:DeleteInstance",
        "ecs:DescribeInstanceAttribute",
        "vpc:DescribeVSwitchAttributes",
    }
    assert policy(needs(second_interface=False, public_ip=True)) == policy(LEAST)
    second = actions(policy(needs(second_interface=True, public_ip=False)))
    assert {action for action in second if action.startswith("vpc:")} == {"vpc:DescribeVSwitchAttributes"}
    assert "vpc:AllocateEipAddress" in actions(policy(FULL))


def test_everything() -> None:
    assert actions(policy(list(Need))) == {right.action for right in RIGHTS}
    assert len({right.action for right in RIGHTS}) == len(RIGHTS)
    assert all(right.lost for right in RIGHTS if right.optional and right.needs != {Need.CHECK})


def test_one_region() -> None:
    making, rest = policy(FULL, region="cn-beijing")["Statement"]
    assert making["Resource"] == ["acs:ecs:cn-beijing:*:*", "acs:vpc:cn-beijing:*:*"]
    assert "ecs:RunInstances" in making["Action"]
    assert rest["Resource"] == "*"
    assert actions(policy(FULL, region="cn-beijing")) == actions(policy(FULL))


def test_every_action_that_is_called_is_in_the_table() -> None:
    called = set()
    for path in Path(package.__path__[0]).glob("*.py"):
        verbs = (
            "Run|Create|Delete|Attach|Detach|Modify|Allocate|Release|Associate|Unassociate|Describe|Tag|List"
        )
        called |= set(re.findall(rf'"((?:{verbs})[A-Z][A-Za-z]+)"', path.read_text()))
    called -= {"TagKey", "TagValue", "DeleteOnRelease"}  # parameters that sound like actions
    assert called <= {right.action.partition(":")[2] for right in RIGHTS}
    assert {"RunInstances", "DescribeInstances", "AllocateEipAddress"} <= called


def test_trust_of_several_accounts() -> None:
    document = trust(
        issuer="https://x", provider_arn="acs:ram::1:oidc-provider/x", service_accounts=("a:b", "a:c")
    )
    subjects = document["Statement"][0]["Condition"]["StringEquals"]["oidc:sub"]
    assert subjects == ["system:serviceaccount:a:b", "system:serviceaccount:a:c"]


def test_trust() -> None:
    document = trust(issuer="https://oidc.example", provider_arn="acs:ram::1:oidc-provider/x")
    (statement,) = document["Statement"]
    assert statement["Principal"] == {"Federated": ["acs:ram::1:oidc-provider/x"]}
    assert statement["Condition"]["StringEquals"] == {
        "oidc:aud": ["sts.aliyuncs.com"],
        "oidc:iss": ["https://oidc.example"],
        "oidc:sub": ["system:serviceaccount:confidential-containers-system:cloud-api-adaptor"],
    }
    assert json.loads(json.dumps(document)) == document
