import base64
import gzip
import json
import os
import ssl
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
import yaml
from structlog.testing import capture_logs

from caa.config import Settings, load
from caa.errors import ConfigError, InvalidArgumentError
from caa.hypervisor import PodVmFiles
from caa.hypervisor.annotations import PodRequest, parse
from caa.podvm import Authority
from caa.tunnel import PodNetwork

INITDATA = b'algorithm = "sha256"\nversion = "0.1.0"\n\n[data]\n"aa.toml" = "x"\n'
NETWORK = PodNetwork(podip=IPv4Interface("10.244.1.5/24"), interface="eth0", vxlan_port=4789, vxlan_id=555000)


def settings(tmp_path: Path, **flags: str) -> Settings:
    required = {"imageid": "m", "vswitch-id": "v", "security-group-ids": "s", "state-dir": str(tmp_path)}
    return load(required | {name.replace("_", "-"): text for name, text in flags.items()}, {})


def pod(**annotations: str) -> PodRequest:
    names = {"io.kubernetes.cri.sandbox-name": "web", "io.kubernetes.cri.sandbox-namespace": "shop"}
    more = {f"io.katacontainers.config.hypervisor.{key}": value for key, value in annotations.items()}
    return parse(names | more)


def written(user_data: bytes) -> dict[str, str]:
    return {each["path"]: each["content"] for each in yaml.safe_load(user_data)["write_files"]}


def test_a_certificate_is_issued_for_the_vm(tmp_path: Path) -> None:
    files = PodVmFiles(settings(tmp_path))
    vm = files.make("0123456789abcdef", pod(), NETWORK)
    config = json.loads(vm.forwarder_config)
    assert vm.name == "podvm-web-01234567"
    assert config["tls-client-ca"] == Authority.load_or_create(tmp_path / "tls").client_certificate
    assert "BEGIN CERTIFICATE" in config["tls-server-cert"]
    assert "BEGIN PRIVATE KEY" in config["tls-server-key"]
    assert json.loads(written(vm.user_data)["/run/peerpod/apf.json"]) == config
    assert json.loads(written(vm.user_data)["/run/peerpod/daemon.json"]) == config
    forwarder = files.forwarder(vm.name, "10.0.0.7")
    assert (forwarder.host, forwarder.port, forwarder.server_name) == ("10.0.0.7", 15150, vm.name)
    assert forwarder.tls is not None
    assert forwarder.tls.verify_mode is ssl.CERT_REQUIRED
    assert config["tls-server-key"] not in repr(vm)


def test_without_tls_there_are_no_keys(tmp_path: Path) -> None:
    files = PodVmFiles(settings(tmp_path, disable_tls="true"))
    config = json.loads(files.make("s1", pod(), NETWORK).forwarder_config)
    assert not [key for key in config if key.startswith("tls-")]
    assert files.forwarder("podvm-web-s1", "10.0.0.7").tls is None
    assert not (tmp_path / "tls").exists()


def test_given_certificates_are_used_and_none_issued(tmp_path: Path) -> None:
    authority = Authority.load_or_create(tmp_path / "elsewhere")
    for name, text in (
        ("ca", authority.ca.certificate),
        ("cert", authority.client.certificate),
        ("key", authority.client.key),
    ):
        (tmp_path / name).write_text(text)
    given = {"ca_cert_file": "ca", "cert_file": "cert", "cert_key": "key"}
    files = PodVmFiles(settings(tmp_path, **{flag: str(tmp_path / name) for flag, name in given.items()}))
    config = json.loads(files.make("s1", pod(), NETWORK).forwarder_config)
    assert "tls-server-key" not in config
    assert files.forwarder("podvm-web-s1", "10.0.0.7").server_name == "podvm-server"


def test_a_given_client_certificate_alone_is_what_forwarders_trust(tmp_path: Path) -> None:
    other = Authority.load_or_create(tmp_path / "elsewhere")
    (tmp_path / "cert").write_text(other.client.certificate)
    (tmp_path / "key").write_text(other.client.key)
    flags = {"cert_file": str(tmp_path / "cert"), "cert_key": str(tmp_path / "key")}
    config = json.loads(PodVmFiles(settings(tmp_path, **flags)).make("s1", pod(), NETWORK).forwarder_config)
    assert config["tls-client-ca"] == other.client.certificate
    assert "tls-server-key" in config


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/nowhere/cert"):
        PodVmFiles(settings(tmp_path, cert_file="/nowhere/cert", cert_key="/nowhere/key"))


def test_the_pods_initdata_goes_before_the_nodes(tmp_path: Path) -> None:
    encoded = base64.b64encode(gzip.compress(INITDATA)).decode()
    files = PodVmFiles(settings(tmp_path, initdata=encoded))

    def initdata(request: PodRequest) -> bytes:
        text = written(files.make("s1", request, NETWORK).user_data)["/run/peerpod/initdata"]
        return gzip.decompress(base64.b64decode(text))

    assert initdata(pod()) == INITDATA
    own = INITDATA.replace(b'"x"', b'"y"').decode()
    assert initdata(pod(cc_init_data=own)) == own.encode()


def test_no_initdata_is_no_file(tmp_path: Path) -> None:
    vm = PodVmFiles(settings(tmp_path)).make("s1", pod(), NETWORK)
    assert "/run/peerpod/initdata" not in written(vm.user_data)


def test_initdata_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--initdata \(INITDATA\)"):
        PodVmFiles(settings(tmp_path, initdata="%%%"))
    with pytest.raises(InvalidArgumentError, match="cc_init_data"):
        PodVmFiles(settings(tmp_path)).make("s1", pod(cc_init_data="= nothing"), NETWORK)


def test_pull_secrets_go_into_the_user_data_alone(tmp_path: Path) -> None:
    files = PodVmFiles(settings(tmp_path))
    vm = files.make("s1", pod(), NETWORK, b'{"auths":{}}')
    assert written(vm.user_data)["/run/peerpod/auth.json"] == '{"auths":{}}'
    assert "auths" not in vm.forwarder_config
    assert "/run/peerpod/auth.json" not in written(files.make("s1", pod(), NETWORK).user_data)


def test_pull_secrets_for_which_there_is_no_room_do_not_stop_the_pod(tmp_path: Path) -> None:
    noise = base64.b64encode(os.urandom(14_000)).decode()
    initdata = f'algorithm = "sha256"\nversion = "0.1.0"\n\n[data]\n"aa.toml" = "{noise}"\n'
    files = PodVmFiles(settings(tmp_path))
    with capture_logs() as told:
        vm = files.make("s1", pod(cc_init_data=initdata), NETWORK, b'{"auths":"' + b"x" * 12_000 + b'"}')
    assert "/run/peerpod/auth.json" not in written(vm.user_data)
    assert [line["log_level"] for line in told] == ["warning"]
    assert "xxx" not in str(told)
