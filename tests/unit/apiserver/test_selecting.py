from typing import Any

import pytest
from apiserver.errors import StatusError
from apiserver.resources import LEASES, NODES, PODS
from apiserver.selectors import field_selector, label_selector, name_selected

POD: dict[str, Any] = {
    "metadata": {"name": "nginx", "namespace": "web", "labels": {"app": "nginx", "a.b/tier": "front"}},
    "spec": {"nodeName": "worker-1"},
    "status": {"phase": "Running"},
}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("", True),
        ("app=nginx", True),
        ("app==nginx,a.b/tier=front", True),
        ("app=nginx,a.b/tier=back", False),
        ("app!=nginx", False),
        ("other!=nginx", True),
        ("app", True),
        ("!app", False),
        ("!other", True),
        ("app in (apache, nginx)", True),
        ("app notin (apache, nginx)", False),
        ("other notin (apache)", True),
        ("other in (apache)", False),
        ("app in (apache,nginx),a.b/tier", True),
        ("app=", False),
    ],
)
def test_labels(selector: str, selected: bool) -> None:
    assert label_selector(selector)(POD) is selected


@pytest.mark.parametrize("selector", ["app=nginx=", "app in nginx", "=x", "app nginx", "app in (a))"])
def test_labels_that_make_no_sense(selector: str) -> None:
    with pytest.raises(StatusError, match="400 BadRequest: unable to parse requirement"):
        label_selector(selector)


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("spec.nodeName=worker-1", True),
        ("spec.nodeName==worker-1,status.phase!=Pending", True),
        ("spec.nodeName=worker-2", False),
        ("metadata.name=nginx,metadata.namespace=web", True),
        ("status.podIP=", True),
    ],
)
def test_fields(selector: str, selected: bool) -> None:
    assert field_selector(selector, PODS)(POD) is selected


def test_fields_that_a_kind_cannot_be_selected_by() -> None:
    for resource, selector, why in (
        (PODS, "spec.runtimeClassName=kata-remote", "field label not supported: spec.runtimeClassName"),
        (NODES, "metadata.namespace=x", "field label not supported: metadata.namespace"),
        (LEASES, "spec.holderIdentity=x", '"spec.holderIdentity" is not a known field selector: only'),
        (PODS, "spec.nodeName", "invalid selector"),
    ):
        with pytest.raises(StatusError) as refused:
            field_selector(selector, resource)
        assert refused.value.code == 400
        assert why in refused.value.message


def test_name_that_a_selector_asks_for() -> None:
    assert name_selected("metadata.name=a") == name_selected("status.phase=x,metadata.name==a") == "a"
    assert name_selected("metadata.name!=a") == name_selected("status.phase=a") == ""
