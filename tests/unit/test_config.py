import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.config import GROUPS, load, options, parse_duration
from caa.errors import ConfigError

REQUIRED = {"imageid": "m-1", "vswitch-id": "vsw-1", "security-group-ids": "sg-1"}

CONTRACT = {
    "socket": ("REMOTE_HYPERVISOR_ENDPOINT", "/run/peerpod/hypervisor.sock"),
    "grpc-socket": ("HYPERVISOR_GRPC_ENDPOINT", "/run/peerpod/hypervisor-grpc.sock"),
    "pods-dir": ("PODS_DIR", "/run/peerpod/pods"),
    "state-dir": ("CAA_STATE_DIR", "/var/lib/caa"),
    "pause-image": ("PAUSE_IMAGE", ""),
    "forwarder-port": ("FORWARDER_PORT", "15150"),
    "ca-cert-file": ("CACERT_FILE", ""),
    "cert-file": ("CERT_FILE", ""),
    "cert-key": ("CERT_KEY", ""),
    "tls-skip-verify": ("TLS_SKIP_VERIFY", "false"),
    "tls-min-version": ("TLS_MIN_VERSION", ""),
    "tls-cipher-suites": ("TLS_CIPHER_SUITES", ""),
    "disable-tls": (None, "false"),
    "proxy-timeout": ("PROXY_TIMEOUT", "5m"),
    "tunnel-type": ("TUNNEL_TYPE", "vxlan"),
    "vxlan-port": ("VXLAN_PORT", "4789"),
    "vxlan-min-id": (None, "555000"),
    "host-interface": (None, ""),
    "initdata": ("INITDATA", ""),
    "cloud-config-verify": ("CLOUD_CONFIG_VERIFY", "false"),
    "peerpods-limit-per-node": ("PEERPODS_LIMIT_PER_NODE", "10"),
    "enable-scratch-space": ("ENABLE_SCRATCH_SPACE", "false"),
    "ext-network-via-podvm": ("EXTERNAL_NETWORK_VIA_PODVM", "false"),
    "pod-subnet-cidrs": ("POD_SUBNET_CIDRS", ""),
    "podvm-version": ("PODVM_VERSION", "auto"),
    "log-level": ("LOG_LEVEL", "info"),
    "log-format": ("LOG_FORMAT", ""),
    "probe-port": ("PROBE_PORT", "8000"),
    "probe-address": ("PROBE_ADDRESS", "127.0.0.1"),
    "alibabacloud-access-key-id": ("ALIBABACLOUD_ACCESS_KEY_ID", ""),
    "alibabacloud-secret-access-key": ("ALIBABACLOUD_ACCESS_KEY_SECRET", ""),
    "alibabacloud-security-token": ("ALIBABACLOUD_SECURITY_TOKEN", ""),
    "region": ("REGION", "cn-beijing"),
    "imageid": ("IMAGEID", ""),
    "instance-type": ("PODVM_INSTANCE_TYPE", "ecs.g8i.xlarge"),
    "instance-types": ("PODVM_INSTANCE_TYPES", ""),
    "vswitch-id": ("VSWITCH_ID", ""),
    "security-group-ids": ("SECURITY_GROUP_IDS", ""),
    "keyname": ("KEYNAME", ""),
    "use-public-ip": ("USE_PUBLIC_IP", "false"),
    "system-disk-size": ("SYSTEM_DISK_SIZE", "40"),
    "disable-cvm": ("DISABLECVM", "false"),
    "vpc-id": (None, ""),
    "tags": ("TAGS", ""),
    "ecs-endpoint": ("ALIBABACLOUD_ECS_ENDPOINT", ""),
    "vpc-endpoint": ("ALIBABACLOUD_VPC_ENDPOINT", ""),
    "sts-endpoint": ("ALIBABACLOUD_STS_ENDPOINT", ""),
    "ca-file": ("ALIBABACLOUD_CA_FILE", ""),
}


def test_the_options_are_those_of_the_contract() -> None:
    ours = {option.flag: (option.env[0] if option.env else None, option.default) for option in options()}
    # By environment alone in the contract, where they are at all.
    more = {"role-arn", "oidc-provider-arn", "oidc-token-file", "launch-template-name", "node-name"}
    more |= {"pod-uid", "runtimeclass-name"}
    assert {flag: what for flag, what in ours.items() if flag not in more} == CONTRACT
    assert all(option.group in GROUPS and option.help for option in options())


def test_a_flag_beats_its_variable_and_that_the_default() -> None:
    assert load(REQUIRED, {}).alibabacloud.region == "cn-beijing"
    assert load(REQUIRED, {"REGION": "cn-hongkong"}).alibabacloud.region == "cn-hongkong"
    assert (
        load({**REQUIRED, "region": "eu-central-1"}, {"REGION": "cn-hongkong"}).alibabacloud.region
        == "eu-central-1"
    )


def test_an_empty_variable_counts_as_unset() -> None:
    settings = load(
        REQUIRED, {"REGION": "", "FORWARDER_PORT": "", "HYPERVISOR_GRPC_ENDPOINT": "", "INSTANCE_TYPE": ""}
    )
    assert settings.alibabacloud.region == "cn-beijing"
    assert settings.forwarder_port == 15150
    assert settings.grpc_socket == Path("/run/peerpod/hypervisor-grpc.sock")


def test_an_empty_flag_turns_grpc_off() -> None:
    assert load({**REQUIRED, "grpc-socket": ""}, {}).grpc_socket is None


def test_the_first_of_two_variables_counts() -> None:
    both = {"PODVM_INSTANCE_TYPE": "ecs.g8i.large", "INSTANCE_TYPE": "ecs.g7.large"}
    assert load(REQUIRED, both).alibabacloud.instance_type == "ecs.g8i.large"
    assert load(REQUIRED, {"INSTANCE_TYPE": "ecs.g7.large"}).alibabacloud.instance_type == "ecs.g7.large"


def test_lists_and_pairs() -> None:
    cloud = load(
        {**REQUIRED, "security-group-ids": "sg-1, sg-2,", "tags": "team=ml, cost=a=b"}, {}
    ).alibabacloud
    assert cloud.security_group_ids == ("sg-1", "sg-2")
    assert cloud.tags == {"team": "ml", "cost": "a=b"}
    assert load({**REQUIRED, "probe-address": "127.0.0.1, ::1"}, {}).probe_addresses == ("127.0.0.1", "::1")


def test_all_problems_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"proxy-timeout": "5"}, {"DISABLECVM": "maybe", "VXLAN_PORT": "70000", "LOG_LEVEL": "loud"})
    told = str(caught.value)
    for part in (
        "--imageid or IMAGEID is required",
        "--vswitch-id or VSWITCH_ID is required",
        "--proxy-timeout='5' is not valid",
        "DISABLECVM='maybe' is not valid; allowed: true, 1, false, 0",
        "VXLAN_PORT='70000' is not valid; allowed: a whole number from 1 to 65535",
        "LOG_LEVEL='loud' is not valid; allowed: debug, info, warning, error",
    ):
        assert part in told


@pytest.mark.parametrize("text", ["localhost", "127.0.0.1:8000", ","])
def test_the_port_is_opened_on_addresses_only(text: str) -> None:
    with pytest.raises(ConfigError, match=r"PROBE_ADDRESS=.* is not valid; allowed: .*IP address"):
        load(REQUIRED, {"PROBE_ADDRESS": text})


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"tls-cipher-suites": "X", "tls-min-version": "1.3"}, "TLS 1.2 only"),
        ({"cert-file": "/c"}, "go together"),
        ({"ca-cert-file": "/ca"}, "needs --cert-file"),
    ],
)
def test_what_does_not_go_together_is_refused(flags: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load({**REQUIRED, **flags}, {})


@pytest.mark.parametrize("text", ["true", "1", "TRUE", "True"])
def test_booleans(text: str) -> None:
    assert load(REQUIRED, {"USE_PUBLIC_IP": text}).alibabacloud.use_public_ip


def test_secrets_do_not_show() -> None:
    settings = load(
        REQUIRED, {"ALIBABACLOUD_ACCESS_KEY_SECRET": "s3cret", "ALIBABACLOUD_SECURITY_TOKEN": "t0ken"}
    )
    assert "s3cret" not in repr(settings)
    assert "t0ken" not in repr(settings)
    assert settings.alibabacloud.access_key_secret == "s3cret"


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load(REQUIRED, {}).socket = Path("/x")  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300s", 300), ("5m", 300), ("1h30m", 5400), ("1.5s", 1.5), ("250ms", 0.25), (".5m", 30)],
)
def test_durations_of_go(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@given(st.text())
def test_a_duration_is_a_positive_number_or_an_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert seconds > 0
