from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.errors import InvalidArgumentError
from caa.hypervisor.annotations import PodRequest, parse

NAMED = {"io.kubernetes.cri.sandbox-name": "web-0", "io.kubernetes.cri.sandbox-namespace": "shop"}
KATA = "io.katacontainers.config.hypervisor."


def test_a_pod_without_demands() -> None:
    assert parse(NAMED) == PodRequest(
        name="web-0",
        namespace="shop",
        uid="",
        instance_type="",
        image="",
        vcpus=0,
        memory_mib=0,
        gpus=0,
        initdata="",
    )


def test_a_pod_with_every_demand() -> None:
    pod = parse(
        NAMED
        | {
            "io.kubernetes.cri.sandbox-uid": "u-1",
            f"{KATA}machine_type": "ecs.g8i.2xlarge",
            f"{KATA}image": "m-1",
            f"{KATA}default_vcpus": "2",
            f"{KATA}default_memory": "4096",
            f"{KATA}default_gpus": "1",
            f"{KATA}cc_init_data": 'algorithm = "sha256"',
        }
    )
    assert (pod.vcpus, pod.memory_mib, pod.gpus) == (2, 4096, 1)
    assert (pod.uid, pod.instance_type, pod.image) == ("u-1", "ecs.g8i.2xlarge", "m-1")
    assert pod.initdata == 'algorithm = "sha256"'


def test_the_names_of_crio_are_unpacked() -> None:
    pod = parse({**NAMED, "io.kubernetes.cri.sandbox-name": "k8s_web-0_shop_2f1c-uid_3"})
    assert (pod.name, pod.namespace) == ("web-0", "shop")


@pytest.mark.parametrize("key", NAMED)
@pytest.mark.parametrize("given_name", [None, "", "a b", "../etc", "x" * 300, "a/b"])
def test_a_pod_needs_its_names(key: str, given_name: str | None) -> None:
    annotations = {k: v for k, v in NAMED.items() if k != key} | (
        {key: given_name} if given_name is not None else {}
    )
    with pytest.raises(InvalidArgumentError, match=key):
        parse(annotations)


@pytest.mark.parametrize("key", ["default_vcpus", "default_memory", "default_gpus"])
@pytest.mark.parametrize("text", ["two", "-1", "1.5", "1e3", " 1", "99999999999999"])
def test_a_number_that_does_not_parse_is_named(key: str, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=key) as caught:
        parse(NAMED | {KATA + key: text})
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["", "0"])
def test_no_number_is_no_demand(text: str) -> None:
    assert parse(NAMED | {f"{KATA}default_vcpus": text}).vcpus == 0


@given(
    st.dictionaries(
        st.sampled_from([*NAMED, f"{KATA}default_vcpus", f"{KATA}default_memory", "x"]), st.text()
    )
)
def test_whatever_comes_is_parsed_or_refused(annotations: Mapping[str, str]) -> None:
    try:
        pod = parse(annotations)
    except InvalidArgumentError:
        return
    assert pod.name
    assert pod.namespace
    assert "/" not in pod.name + pod.namespace
