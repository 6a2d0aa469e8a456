"""The manifests grant what the reaper asks for, and nothing else."""

from pathlib import Path
from typing import Any

import yaml

from caa.reaper import CLUSTER_RIGHTS, LEASE, OWN_RIGHTS

RBAC = Path(__file__).parents[3] / "deploy/kustomize/components/reaper/rbac.yaml"


def granted(kind: str) -> list[dict[str, Any]]:
    (role,) = (each for each in yaml.safe_load_all(RBAC.read_text()) if each["kind"] == kind)
    return list(role["rules"])


def as_rows(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {
        (verb, resource, group)
        for rule in rules
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for group in rule["apiGroups"]
    }


def test_in_the_cluster() -> None:
    asked = {(each.verb, each.resource, each.group) for each in CLUSTER_RIGHTS}
    assert as_rows(granted("ClusterRole")) == asked


def test_in_its_own_namespace() -> None:
    asked = {(each.verb, each.resource, each.group) for each in OWN_RIGHTS}
    rules = granted("Role")
    assert as_rows(rules) == asked
    assert {name for rule in rules for name in rule.get("resourceNames", ())} == {LEASE}
