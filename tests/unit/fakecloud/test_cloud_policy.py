import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.fakecloud.policy import (
    LONGEST,
    Pattern,
    Policy,
    PolicyError,
    Verdict,
    parse_policy,
    parse_trust_policy,
)
from caa.fakecloud.published import PUBLISHED_POLICY

INSTANCE = "acs:ecs:cn-beijing:1:instance/i-1"
ALLOW, EXPLICIT, IMPLICIT = Verdict.ALLOW, Verdict.EXPLICIT_DENY, Verdict.IMPLICIT_DENY


def _document(*statements: dict[str, Any]) -> str:
    known = {"Effect": "Allow", "Resource": "*"}
    return json.dumps({"Version": "1", "Statement": [known | statement for statement in statements]})


def _judge(action: str, *statements: dict[str, Any], about: str = INSTANCE, address: str = "") -> Verdict:
    context = {"acs:SourceIp": [address]} if address else {}
    return parse_policy(_document(*statements)).judge(action, about, context)


# A small alphabet, so that patterns meet texts; the newline and the brackets are what regular expressions and
# globs would treat as something else.
_TEXTS = st.text("ab*?[]!\n.", max_size=8)


@given(_TEXTS, _TEXTS)
def test_wildcards(pattern: str, text: str) -> None:
    @cache
    def matches(p: int, t: int) -> bool:
        """By the words of the rule, letter for letter."""
        if p == len(pattern):
            return t == len(text)
        if pattern[p] == "*":
            return matches(p + 1, t) or (t < len(text) and matches(p, t + 1))
        return t < len(text) and pattern[p] in ("?", text[t]) and matches(p + 1, t + 1)

    assert Pattern(pattern).matches(text) == matches(0, 0)


def test_many_stars_take_no_time() -> None:
    assert not Pattern("*a" * 500).matches("a" * 499 + "b" * 5000)


@pytest.mark.parametrize(
    ("action", "granted", "verdict"),
    [
        ("ecs:RunInstances", "ecs:RunInstances", ALLOW),
        ("ecs:RunInstances", "ECS:runinstances", ALLOW),
        ("ecs:RunInstances", "ecs:*", ALLOW),
        ("ecs:RunInstances", "*", ALLOW),
        ("ecs:DescribeInstances", "ecs:Describe*", ALLOW),
        ("ecs:DescribeInstances", ["vpc:*", "*:DescribeInstance?"], ALLOW),
        ("ecs:RunInstances", "ecs:RunInstance", IMPLICIT),
        ("ecs:RunInstances", "vpc:RunInstances", IMPLICIT),
        ("ecs:RunInstances", ["ecs:Describe*", "vpc:*"], IMPLICIT),
    ],
)
def test_actions(action: str, granted: Any, verdict: Verdict) -> None:
    assert _judge(action, {"Action": granted}) is verdict


@pytest.mark.parametrize(
    ("resource", "verdict"),
    [
        ("*", ALLOW),
        (INSTANCE, ALLOW),
        ("acs:ecs:*:*:instance/*", ALLOW),
        ("acs:ecs:cn-beijing:1:instance/i-?", ALLOW),
        (["acs:ecs:*:*:image/*", "acs:*:*:*:instance/i-1"], ALLOW),
        ("acs:ecs:*:*:image/*", IMPLICIT),
        ("acs:ecs:cn-hangzhou:*:instance/*", IMPLICIT),
        ("acs:ecs:*:*:instance/I-1", IMPLICIT),
    ],
)
def test_resources(resource: Any, verdict: Verdict) -> None:
    assert _judge("ecs:DeleteInstance", {"Action": "*", "Resource": resource}) is verdict


def test_a_deny_wins_wherever_it_stands() -> None:
    allow = {"Action": "*"}
    deny = {"Effect": "Deny", "Action": "ecs:Delete*", "Resource": "acs:ecs:*:*:instance/*"}
    for statements in ((allow, deny), (deny, allow)):
        assert _judge("ecs:DeleteInstance", *statements) is EXPLICIT
        assert _judge("ecs:RunInstances", *statements) is ALLOW
        assert _judge("ecs:DeleteInstance", *statements, about="acs:ecs:r:1:eni/e") is ALLOW


def test_not_action_is_about_all_others() -> None:
    statement = {"NotAction": ["ecs:Delete*", "vpc:*"]}
    assert _judge("ecs:RunInstances", statement) is ALLOW
    assert _judge("ecs:DeleteInstance", statement) is IMPLICIT
    assert _judge("ecs:DeleteInstance", statement | {"Effect": "Deny"}, {"Action": "*"}) is ALLOW
    assert _judge("ecs:RunInstances", statement | {"Effect": "Deny"}, {"Action": "*"}) is EXPLICIT


@pytest.mark.parametrize(
    ("operator", "value", "verdict"),
    [
        ("IpAddress", "127.0.0.1", ALLOW),
        ("IpAddress", ["10.0.0.0/8", "127.0.0.0/8"], ALLOW),
        ("IpAddress", "10.0.0.0/8", IMPLICIT),
        ("IpAddress", "::1", IMPLICIT),
        ("NotIpAddress", ["10.0.0.0/8", "192.168.0.0/16"], ALLOW),
        ("NotIpAddress", ["10.0.0.0/8", "127.0.0.0/8"], IMPLICIT),
    ],
)
def test_the_callers_address(operator: str, value: Any, verdict: Verdict) -> None:
    statement = {"Action": "*", "Condition": {operator: {"acs:SourceIp": value}}}
    assert _judge("ecs:RunInstances", statement, address="127.0.0.1") is verdict


def test_all_conditions_have_to_hold() -> None:
    condition = {
        "IpAddress": {"acs:SourceIp": "127.0.0.0/8"},
        "NotIpAddress": {"acs:SourceIp": "127.0.0.9"},
    }
    statement = {"Action": "*", "Condition": condition}
    assert _judge("ecs:RunInstances", statement, address="127.0.0.1") is ALLOW
    assert _judge("ecs:RunInstances", statement, address="127.0.0.9") is IMPLICIT
    assert _judge("ecs:RunInstances", statement) is IMPLICIT


def test_the_published_policy_grants_what_the_guide_lists() -> None:
    policy = parse_policy(PUBLISHED_POLICY)
    [statement] = json.loads(PUBLISHED_POLICY)["Statement"]
    assert len(statement["Action"]) == 14
    for action in statement["Action"]:
        assert policy.judge(action, INSTANCE) is ALLOW
    for action in ("ecs:DescribeInstances", "ecs:DescribeInstanceTypes", "ecs:TagResources", "oss:PutObject"):
        assert policy.judge(action, INSTANCE) is IMPLICIT
    assert policy.allowing(["ecs:Describe*"]).judge("ecs:DescribeInstances", INSTANCE) is ALLOW


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "not JSON"),
        ("[" * 5000, "not JSON"),
        (" " * (LONGEST + 1), "characters"),
        ("[]", "the document must be an object"),
        ("{}", "the document lacks Statement, Version"),
        ('{"Version": "1", "Statement": [], "Id": "x"}', "has Id"),
        ('{"Version": 1, "Statement": []}', "Version is 1"),
        ('{"Version": "2012-10-17", "Statement": []}', "2012-10-17"),
        ('{"Version": "1", "Statement": []}', "at least one"),
        ('{"Version": "1", "Statement": ["x"]}', r"Statement\[0\] must be an object"),
        (_document({"Action": "*"}, {}), r"Statement\[1\] must have either Action or NotAction"),
        (_document({"Action": "*", "NotAction": "*"}), "either Action or NotAction"),
        (_document({"Action": []}), r"Statement\[0\]\.Action must be a text or a list"),
        (_document({"Action": ["*", 1]}), "must be a text or a list"),
        (_document({"Action": "RunInstances"}), "'RunInstances' is not of the form service:Action"),
        (_document({"Action": "*", "Effect": "allow"}), "Effect is 'allow'"),
        (_document({"Action": "*", "Effect": ["Allow"]}), "Effect is"),
        (_document({"Action": "*", "Resource": "instance/i-1"}), "not of the form acs:"),
        (_document({"Action": "*", "Resource": None}), "Resource must be"),
        (_document({"Action": "*", "Principal": "*"}), "has Principal"),
        (_document({"Action": "*", "NotResource": "*"}), "has NotResource"),
        (_document({"Action": "*", "Condition": []}), "Condition must be an object"),
        (_document({"Action": "*", "Condition": {"Bool": {"acs:MFAPresent": "true"}}}), "acs:MFAPresent"),
        (_document({"Action": "*", "Condition": {"Bool": {"acs:SourceIp": "true"}}}), "supported operators"),
        (
            _document({"Action": "*", "Condition": {"IpAddress": {"acs:SourceIp": "home"}}}),
            r"IpAddress\.acs:SourceIp: 'home'",
        ),
    ],
)
def test_what_is_refused_and_where_it_is_wrong(document: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        parse_policy(document)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_ELEMENTS = st.sampled_from(["Effect", "Action", "NotAction", "Resource", "Principal", "Condition"])
_VALUES = st.sampled_from(["Deny", "ecs:*", ["*"], {"IpAddress": {"acs:SourceIp": "::/0"}}]) | _JSON


@given(st.dictionaries(_ELEMENTS, _VALUES, max_size=2))
def test_a_document_is_refused_or_can_be_judged(changes: dict[str, Any]) -> None:
    def outcome(parse: Callable[[str], Policy]) -> Verdict | str:
        try:
            policy = parse(_document({"Action": "*"} | changes))
        except PolicyError as error:
            return str(error)
        return policy.judge("ecs:X", INSTANCE, {"acs:SourceIp": ["127.0.0.1"]})

    assert outcome(parse_policy)
    assert outcome(parse_trust_policy)


class TestTrust:
    PROVIDER = "acs:ram::1:oidc-provider/p"

    def _verdict(
        self, condition: dict[str, Any], claims: Mapping[str, list[str]] = {}, provider: str = PROVIDER
    ) -> Verdict:
        statement = {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Principal": {"Federated": [self.PROVIDER]},
            "Condition": condition,
        }
        policy = parse_trust_policy(json.dumps({"Version": "1", "Statement": [statement]}))
        context = {"oidc:iss": ["http://i"], "oidc:aud": ["a", "b"], "oidc:sub": ["ns:sa"], **claims}
        return policy.judge("sts:AssumeRole", provider, context)

    def test_all_claims(self) -> None:
        condition = {"StringEquals": {"oidc:iss": "http://i", "oidc:aud": ["b", "c"], "oidc:sub": "ns:sa"}}
        assert self._verdict(condition) is ALLOW
        assert self._verdict(condition, provider="acs:ram::1:oidc-provider/other") is IMPLICIT
        for claim in ("oidc:iss", "oidc:aud", "oidc:sub"):
            assert self._verdict(condition, {claim: ["a"]}) is IMPLICIT
            assert self._verdict(condition, {claim: []}) is IMPLICIT

    def test_operators(self) -> None:
        assert self._verdict({"StringLike": {"oidc:sub": "ns:*"}}) is ALLOW
        assert self._verdict({"StringLike": {"oidc:sub": "NS:*"}}) is IMPLICIT
        assert self._verdict({"StringEquals": {"oidc:sub": "ns:*"}}) is IMPLICIT
        assert self._verdict({"StringNotEquals": {"oidc:sub": "ns:sa"}}) is IMPLICIT
        assert self._verdict({"StringNotLike": {"oidc:sub": "kube-system:*"}}) is ALLOW
        assert self._verdict({}) is ALLOW

    @pytest.mark.parametrize(
        ("statement", "says"),
        [
            ({"Principal": "*"}, "Principal must be an object"),
            ({"Principal": {"RAM": "x"}}, "Principal lacks Federated"),
            ({"Resource": "*", "Principal": {"Federated": "x"}}, "has Resource"),
            ({"Principal": {"Federated": "x"}, "Condition": {"IpAddress": {"oidc:sub": "x"}}}, "operators"),
            (
                {"Principal": {"Federated": "x"}, "Condition": {"Bool": {"acs:SourceIp": "x"}}},
                "keys: oidc:iss",
            ),
        ],
    )
    def test_refusals(self, statement: dict[str, Any], says: str) -> None:
        statement = {"Effect": "Allow", "Action": "sts:AssumeRole"} | statement
        with pytest.raises(PolicyError, match=says):
            parse_trust_policy(json.dumps({"Version": "1", "Statement": [statement]}))
