import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from caa.errors import InvalidArgumentError
from caa.podvm import ForwarderConfig
from caa.tunnel import PodNetwork

NETWORK = {
    "podip": "10.244.0.19/24",
    "pod-hw-addr": "0e:8f:62:f3:81:ad",
    "interface": "eth0",
    "worker-node-ip": "10.224.0.4/16",
    "tunnel-type": "vxlan",
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.0.1", "dev": "eth0"}],
    "neighbors": [],
    "mtu": 1500,
    "index": 1,
    "vxlan-port": 4789,
    "vxlan-id": 555001,
    "dedicated": False,
    "external-net-via-pod-vm": False,
}
LEAST = {"pod-network": NETWORK, "pod-namespace": "demo", "pod-name": "web"}
TLS = {
    "tls-server-key": "-----BEGIN PRIVATE KEY-----\nKEY\n",
    "tls-server-cert": "-----BEGIN CERTIFICATE-----\nCERT\n",
    "tls-client-ca": "-----BEGIN CERTIFICATE-----\nCA\n",
    "tls-min-version": "VersionTLS12",
    "tls-cipher-suites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
}


def config(**fields: Any) -> ForwarderConfig:
    return ForwarderConfig(
        pod_network=PodNetwork.model_validate(NETWORK), pod_namespace="demo", pod_name="web", **fields
    )


def test_what_is_not_set_is_left_out() -> None:
    written = json.loads(config().to_json())
    assert written.keys() == LEAST.keys()
    assert "null" not in config().to_json()


def test_the_keys_are_the_contracts() -> None:
    text = json.dumps(LEAST | TLS)
    parsed = ForwarderConfig.parse(text)
    assert parsed.tls_server_key == TLS["tls-server-key"]
    assert parsed.tls_cipher_suites == ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",)
    assert json.loads(parsed.to_json()) == json.loads(text)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "tls_client_ca": st.text(),
            "tls_min_version": st.sampled_from(["", "VersionTLS12"]),
            "tls_cipher_suites": st.lists(st.text()).map(tuple),
        },
    )
)
def test_what_is_written_is_read(fields: dict[str, Any]) -> None:
    written = config(**fields)
    assert ForwarderConfig.parse(written.to_json()) == written


def test_what_a_go_daemon_writes() -> None:
    """Its empty lists are null; later versions have keys that we do not know."""
    theirs = LEAST | {
        "pod-network": NETWORK | {"neighbors": None, "routes": None},
        "tls-cipher-suites": None,
        "sc-pp-prv": "a2V5",
    }
    parsed = ForwarderConfig.parse(json.dumps(theirs))
    assert parsed == ForwarderConfig.parse(json.dumps(LEAST | {"pod-network": NETWORK | {"routes": []}}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tls-min-version": "VersionTLS13"}, "leave one of them out"),
        ({"tls-min-version": "VersionTLS11"}, "tls-min-version"),
        ({"tls-server-key": ""}, "give both or neither"),
        ({"tls-server-cert": ""}, "give both or neither"),
        ({"pod-name": 3}, "pod-name"),
        ({"pod-name": None}, "pod-name: Field required"),
        ({"pod-network": NETWORK | {"mtu": "KEY"}}, "pod-network.mtu"),
    ],
)
def test_a_wrong_value_is_named_and_not_shown(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidArgumentError, match="the forwarder config is not valid") as caught:
        ForwarderConfig.parse(json.dumps(LEAST | TLS | change))
    assert complaint in str(caught.value)
    assert "KEY" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[", "[1]", "3", b"\xff", "[" * 100_000, "9" * 5000])
def test_what_is_no_config_at_all(text: str | bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="the forwarder config is not"):
        ForwarderConfig.parse(text)


def test_the_key_shows_nowhere() -> None:
    with pytest.raises(ValidationError) as caught:
        config(tls_server_key="KEY")
    assert "KEY" not in str(caught.value)
    assert "KEY" not in repr(config(tls_server_key="KEY", tls_server_cert="CERT"))
