"""RAM policies: who may do what with which resource, as a JSON document says it. Without I/O.

    {"Version": "1", "Statement": [{"Effect": "Allow", "Action": ["ecs:Describe*"], "Resource": "*"}]}

A permission policy is attached to an identity; a trust policy says who may assume a role, and has a
Principal where the other has a Resource. Both are read and judged here. Every text may also be a list of
texts; * stands for any characters and ? for one. A Deny that applies wins over every Allow, and what no
statement is about is denied (RAM's page on policy evaluation).

What a condition operator compares with or without regard to case is documented; that actions are compared
without it and resources with it is assumed.
"""

import fnmatch
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address, ip_network
from typing import Any, Self

VERSION = "1"
LONGEST = 6144
"""Characters of a document (RAM's limit for a custom policy), which also bounds what a caller can send."""

Context = Mapping[str, Collection[str]]
"""What is known of a request, by condition key. A key that is not known has no values."""


class PolicyError(ValueError):
    """A document that can't be used; the message says where it is wrong."""


class Verdict(Enum):
    """The values are those of the API's NoPermissionType."""

    ALLOW = "Allow"
    EXPLICIT_DENY = "ExplicitDeny"
    """A Deny applies."""
    IMPLICIT_DENY = "ImplicitDeny"
    """No Allow applies."""


class Pattern:
    """A text with wildcards."""

    def __init__(self, text: str, *, ignore_case: bool = False) -> None:
        # fnmatch's expression never backtracks over a star. Brackets are ordinary characters here.
        expression = fnmatch.translate(text.replace("[", "[[]"))
        self._expression = re.compile(expression, re.IGNORECASE if ignore_case else 0)

    def matches(self, text: str) -> bool:
        return self._expression.match(text) is not None


Test = Callable[[str], bool]


@dataclass(frozen=True)
class _Condition:
    key: str
    tests: tuple[Test, ...]
    """One for each value of the document; one that passes is enough."""
    negated: bool

    def holds(self, context: Context) -> bool:
        met = any(test(value) for value in context.get(self.key, ()) for test in self.tests)
        return met is not self.negated


@dataclass(frozen=True)
class Statement:
    verdict: Verdict
    actions: tuple[Pattern, ...]
    but_actions: bool
    """With NotAction: all actions but those."""
    objects: tuple[Pattern, ...]
    """Resources; in a trust policy the principals."""
    conditions: tuple[_Condition, ...]

    def applies(self, action: str, about: str, context: Context) -> bool:
        return (
            any(each.matches(action) for each in self.actions) is not self.but_actions
            and any(each.matches(about) for each in self.objects)
            and all(each.holds(context) for each in self.conditions)
        )


@dataclass(frozen=True)
class Policy:
    statements: tuple[Statement, ...]

    def judge(self, action: str, about: str, context: Context | None = None) -> Verdict:
        """Whether `action` (`service:Action`) is allowed with the resource, or to the principal, `about`."""
        verdicts = {each.verdict for each in self.statements if each.applies(action, about, context or {})}
        if Verdict.EXPLICIT_DENY in verdicts:
            return Verdict.EXPLICIT_DENY
        return Verdict.ALLOW if Verdict.ALLOW in verdicts else Verdict.IMPLICIT_DENY

    def allowing(self, actions: Iterable[str]) -> Self:
        """This policy and an Allow of the actions with every resource. Raises PolicyError."""
        patterns = tuple(_action(action, "the actions to allow") for action in actions)
        return type(self)((*self.statements, Statement(Verdict.ALLOW, patterns, False, (Pattern("*"),), ())))


@dataclass(frozen=True)
class _Kind:
    """What tells permission policies from trust policies."""

    objects: Callable[[Mapping[str, Any], str], tuple[Pattern, ...]]
    elements: frozenset[str]
    keys: Mapping[str, frozenset[str]]
    """Condition keys that requests have a value for, and the operators that suit it."""


def parse_policy(document: str) -> Policy:
    """A permission policy. Raises PolicyError, also for what RAM knows and this does not: better no local
    cloud than one that grants something else than the document says.
    """
    return _parse(document, _PERMISSIONS)


def parse_trust_policy(document: str) -> Policy:
    """A role's trust policy. Raises PolicyError."""
    return _parse(document, _TRUST)


def _parse(document: str, kind: _Kind) -> Policy:
    if len(document) > LONGEST:
        raise PolicyError(f"it has {len(document)} characters; allowed: {LONGEST}")
    try:
        policy = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"it is not JSON: {error}") from None
    _expect_elements(policy, "the document", required={"Version", "Statement"})
    if policy["Version"] != VERSION:
        raise PolicyError(f"Version is {policy['Version']!r}; it must be {VERSION!r}, as text")
    statements = policy["Statement"]
    if not isinstance(statements, list) or not statements:
        raise PolicyError("Statement must be a list of at least one statement")
    return Policy(
        tuple(_statement(each, f"Statement[{index}]", kind) for index, each in enumerate(statements))
    )


def _statement(statement: Any, where: str, kind: _Kind) -> Statement:
    _expect_elements(
        statement, where, required={"Effect"}, optional={"Action", "NotAction", "Condition", *kind.elements}
    )
    effects = {"Allow": Verdict.ALLOW, "Deny": Verdict.EXPLICIT_DENY}
    effect = statement["Effect"]
    if not isinstance(effect, str) or effect not in effects:
        raise PolicyError(f"{where}.Effect is {effect!r}; it must be 'Allow' or 'Deny'")
    given = [name for name in ("Action", "NotAction") if name in statement]
    if len(given) != 1:
        raise PolicyError(f"{where} must have either Action or NotAction")
    here = f"{where}.{given[0]}"
    return Statement(
        verdict=effects[effect],
        actions=tuple(_action(action, here) for action in _texts(statement[given[0]], here)),
        but_actions=given == ["NotAction"],
        objects=kind.objects(statement, where),
        conditions=tuple(_conditions(statement.get("Condition", {}), f"{where}.Condition", kind)),
    )


def _action(text: str, where: str) -> Pattern:
    if text != "*" and not re.fullmatch(r"[\w*?-]+:[\w*?]+", text, re.ASCII):
        raise PolicyError(f"{where}: {text!r} is not of the form service:Action")
    return Pattern(text, ignore_case=True)


def _resources(statement: Mapping[str, Any], where: str) -> tuple[Pattern, ...]:
    resources = _texts(statement.get("Resource"), f"{where}.Resource")
    for resource in resources:
        if resource != "*" and not re.fullmatch(r"acs:[^:]+:[^:]*:[^:]*:.+", resource):
            raise PolicyError(
                f"{where}.Resource: {resource!r} is not of the form acs:service:region:account:resource"
            )
    return tuple(map(Pattern, resources))


def _principals(statement: Mapping[str, Any], where: str) -> tuple[Pattern, ...]:
    principal = statement.get("Principal")
    _expect_elements(principal, f"{where}.Principal", required={"Federated"})
    assert isinstance(principal, dict)
    return tuple(map(Pattern, _texts(principal["Federated"], f"{where}.Principal.Federated")))


def _conditions(condition: Any, where: str, kind: _Kind) -> Iterable[_Condition]:
    for operator, keys in _object(condition, where).items():
        for key, values in _object(keys, f"{where}.{operator}").items():
            here = f"{where}.{operator}.{key}"
            if key not in kind.keys:
                raise PolicyError(f"{here} is not supported here; supported keys: {', '.join(kind.keys)}")
            if operator not in kind.keys[key]:
                raise PolicyError(
                    f"{here} is not supported here; supported operators: {', '.join(sorted(kind.keys[key]))}"
                )
            make, negated = _OPERATORS[operator]
            try:
                tests = tuple(make(value) for value in _texts(values, here))
            except ValueError as error:
                raise PolicyError(f"{here}: {error}") from None
            yield _Condition(key, tests, negated)


def _in_network(value: str) -> Test:
    network = ip_network(value)
    return lambda address: ip_address(address) in network


def _like(value: str) -> Test:
    return Pattern(value).matches


def _equals(value: str) -> Test:
    return lambda text: text == value


_OPERATORS: Mapping[str, tuple[Callable[[str], Test], bool]] = {
    "StringEquals": (_equals, False),
    "StringNotEquals": (_equals, True),
    "StringLike": (_like, False),
    "StringNotLike": (_like, True),
    "IpAddress": (_in_network, False),
    "NotIpAddress": (_in_network, True),
}
"""How each makes a test of a value, and whether the test must fail (RAM's page on conditional operators)."""
_OF_TEXTS = frozenset({"StringEquals", "StringNotEquals", "StringLike", "StringNotLike"})
_OF_ADDRESSES = frozenset({"IpAddress", "NotIpAddress"})

_PERMISSIONS = _Kind(_resources, frozenset({"Resource"}), {"acs:SourceIp": _OF_ADDRESSES})
_TRUST = _Kind(
    _principals,
    frozenset({"Principal"}),
    {"oidc:iss": _OF_TEXTS, "oidc:aud": _OF_TEXTS, "oidc:sub": _OF_TEXTS},
)


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{where} must be an object, and is {_shortly(value)}")
    return value


def _texts(value: Any, where: str) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise PolicyError(f"{where} must be a text or a list of texts, and is {_shortly(value)}")
    return texts


def _expect_elements(value: Any, where: str, *, required: set[str], optional: Iterable[str] = ()) -> None:
    given = set(_object(value, where))
    if missing := required - given:
        raise PolicyError(f"{where} lacks {', '.join(sorted(missing))}")
    if unknown := given - required - set(optional):
        raise PolicyError(f"{where} has {', '.join(sorted(unknown))}, which is not supported here")


def _shortly(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
