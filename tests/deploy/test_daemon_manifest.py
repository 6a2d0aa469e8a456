"""The manifests and the code mean the same paths, ports, commands and settings."""

import re
from collections.abc import Callable
from pathlib import Path, PurePath

import click
import manifests
import pytest
from manifests import ADDRESS, DEPLOY, Manifests

import caa.cli  # noqa: F401  makes the commands
from caa import daemon
from caa.agent_proxy.create_container import DIRECT_VOLUMES
from caa.cli.group import cli
from caa.config import Option, Settings, load, load_reaper, options, reaper_options
from caa.errors import ConfigError
from caa.kubernetes import startup
from caa.metrics import Metrics
from caa.status_server import StatusServer

Build = Callable[[str], Manifests]

README = (DEPLOY / "README.md").read_text()
REQUIRED = {"IMAGEID": "m-1", "VSWITCH_ID": "vsw-1", "SECURITY_GROUP_IDS": "sg-1"}


def settings(built: Manifests) -> Settings:
    return load({}, {**environment(built), **REQUIRED})


def environment(built: Manifests) -> dict[str, str]:
    return built.environment(built.daemon().container)


def test_the_settings_are_understood(built: Manifests) -> None:
    parsed = settings(built)
    assert parsed.node_name
    assert parsed.alibabacloud.region == "cn-beijing"
    known = {name for option in options() for name in option.env} | {"HOST_IP"}
    assert environment(built).keys() <= known


def test_what_is_not_set_is_asked_for(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"IMAGEID is required.*\n.*VSWITCH_ID.*\n.*SECURITY_GROUP_IDS"):
        load({}, environment(build("ack")))


def test_arguments_are_commands(built: Manifests) -> None:
    for _, container in built.workloads():
        assert "command" not in container, "the image has its entry point"
        (command,) = container["args"]
        assert command in cli.commands


def test_folders_of_the_daemon_are_the_nodes(built: Manifests) -> None:
    (spec, container), parsed = built.daemon(), settings(built)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {PurePath(mount["mountPath"]): mount for mount in container["volumeMounts"]}
    host = {path for path, mount in mounts.items() if "hostPath" in volumes[mount["name"]]}
    for path in host:
        assert volumes[mounts[path]["name"]]["hostPath"]["path"] == str(path), "as the shim names it"
    assert parsed.grpc_socket
    for needed in (parsed.socket, parsed.grpc_socket, parsed.pods_dir, parsed.state_dir, DIRECT_VOLUMES):
        assert {needed, *needed.parents} & host, needed
    assert mounts[PurePath("/run/netns")]["mountPropagation"] == "HostToContainer"
    assert len(host) == 4, "and nothing else of the node's"


def test_files_that_are_named_are_mounted(built: Manifests) -> None:
    parsed = settings(built)
    spec, container = built.daemon()
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    files: set[str] = set()
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "secret" in volume:
            data = built.one("Secret", volume["secret"]["secretName"])["data"]
            files |= {f"{mount['mountPath']}/{name}" for name in data}
        for source in volume.get("projected", {}).get("sources", []):
            files.add(f"{mount['mountPath']}/{source['serviceAccountToken']['path']}")
    given = (
        parsed.ca_cert_file,
        parsed.cert_file,
        parsed.cert_key,
        parsed.alibabacloud.oidc_token_file,
        parsed.alibabacloud.ca_file,
    )
    assert {path for path in given if path} <= files


def test_the_daemon_is_who_ram_trusts(build: Build) -> None:
    spec = build("ack").daemon().spec
    (token,) = (volume["projected"] for volume in spec["volumes"] if "projected" in volume)
    assert token["sources"] == [
        {"serviceAccountToken": {"path": "token", "audience": "sts.aliyuncs.com", "expirationSeconds": 3600}}
    ]
    account = build("ack").one("ServiceAccount", spec["serviceAccountName"])["metadata"]
    ram = cli.commands["ram"]
    assert isinstance(ram, click.Group)
    trust = ram.commands["trust"]
    (default,) = (each.default for each in trust.params if each.name == "service_accounts")
    assert [f"{account['namespace']}:{account['name']}"] == default
    assert "pod-identity.alibabacloud.com/role-name" in account["annotations"]


def test_probes_ask_for_what_there_is(built: Manifests) -> None:
    served = {resource.canonical for resource in StatusServer(Metrics())._runner.app.router.resources()}
    for spec, container in built.workloads():
        parsed = load_reaper({}, built.environment(container))
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        probes = [container[name] for name in container if name.endswith("Probe")]
        for get in (probe["httpGet"] for probe in probes):
            assert get["path"] in served
            assert ports[get["port"]] == parsed.probe_port
            assert get.get("host", ADDRESS) in parsed.probe_addresses
            assert ("host" in get) == spec.get("hostNetwork", False)
        assert len(probes) >= 2


def test_startup_is_waited_for(built: Manifests) -> None:
    probe = built.daemon().container["startupProbe"]
    spare = probe["periodSeconds"] * probe["failureThreshold"] - startup._LONGEST
    assert spare >= 120, "the journal's sandboxes are taken up before the daemon looks at pods"


def test_there_is_time_to_end(built: Manifests) -> None:
    assert built.daemon().spec["terminationGracePeriodSeconds"] >= daemon._GRACE + 15


def test_pods_go_where_the_daemon_is(built: Manifests) -> None:
    name = settings(built).runtime_class_name
    scheduling = built.one("RuntimeClass", name)["scheduling"]
    assert scheduling["nodeSelector"] == built.daemon().spec["nodeSelector"]


# Every option can be set

LISTED = dict(
    re.findall(
        r'^ +(?:# )?- (\w+)="(.*?)"',
        (DEPLOY / "kustomize/overlays/ack/kustomization.yaml").read_text(),
        re.MULTILINE,
    )
)
"""What the overlay `ack` offers for peer-pods-cm, with the values that it shows."""
BY_THE_CLUSTER = {"POD_NAMESPACE"}
"""Beside a service account's token."""
BY_MANIFEST = {"NODE_NAME", "POD_UID", "PROBE_ADDRESS", "CACERT_FILE", "CERT_FILE", "CERT_KEY"}


def in_credentials() -> set[str]:
    files = DEPLOY.glob("kustomize/overlays/*/alibabacloud-cred.env*")
    return {name for file in files for name in re.findall(r"^(\w+)=", file.read_text(), re.MULTILINE)}


OPTIONS = {option.flag: option for option in (*reaper_options(), *options())}


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_every_option_can_be_set(option: Option, build: Build) -> None:
    if not option.env:
        assert f"--{option.flag}" in README
        return
    given = environment(build("everything")).keys()
    assert (
        option.env[0] in LISTED.keys() | BY_THE_CLUSTER
        or option.env[0] in in_credentials()
        or (option.env[0] in BY_MANIFEST and option.env[0] in given)
    )


def test_the_defaults_that_are_shown_are_right() -> None:
    known = {name: option for option in OPTIONS.values() for name in option.env}
    assert LISTED.keys() - known.keys() == {"OTEL_EXPORTER_OTLP_ENDPOINT"}, "every OpenTelemetry SDK's"
    for name in LISTED.keys() & known.keys():
        option, shown = known[name], LISTED[name]
        assert shown == "" or option.parse(shown) is not None
        if option.default and name not in ("PODVM_INSTANCE_TYPES", "CLOUD_CONFIG_VERIFY"):
            assert shown == option.default, name


def test_secrets_are_in_no_configmap(built: Manifests) -> None:
    secret = {name for option in options() if option.secret for name in option.env}
    assert secret
    assert not secret & LISTED.keys()
    for each in built:
        if each["kind"] == "ConfigMap":
            assert not secret & each["data"].keys()


def test_secrets_are_kept_out_of_the_repository() -> None:
    ignored = (DEPLOY / "kustomize/overlays/.gitignore").read_text().split("\n")
    assert {"/access-key/alibabacloud-cred.env", "/custom-certificates/*.key"} <= set(ignored)


# Overlays of operators


def test_an_overlay_as_the_installation_page_has_it(overlays: Path) -> None:
    page = (DEPLOY.parent / "docs" / "install.md").read_text()
    text = next(
        block
        for block in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        if "images:" in block
    )
    folder = overlays.parents[2] / "my-cluster"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(re.sub("^# (?=components|  - )", "", text, flags=re.MULTILINE))
    built = manifests.build(folder)
    parsed = load({}, environment(built))
    assert parsed.alibabacloud.vswitch_ids
    assert "ACCOUNT" not in parsed.alibabacloud.role_arn + parsed.alibabacloud.oidc_provider_arn
    assert parsed.alibabacloud.oidc_token_file, "what is not given is the overlay's"
    images = {container["image"] for _, container in built.workloads()}
    assert len(list(built.workloads())) == 2
    (image,) = images
    assert image.startswith("registry.example.com/")


MOVED = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../base]
images:
  - name: cloud-api-adaptor
    newName: registry.example/caa
generatorOptions:
  disableNameSuffixHash: true
configMapGenerator:
  - name: peer-pods-cm
    namespace: confidential-containers-system
    literals:
      - CLOUD_PROVIDER="alibabacloud"
      - ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN="false"
      - CLOUD_CONFIG_VERIFY="false"
      - DISABLECVM="true"
      - PAUSE_IMAGE=""
      - VXLAN_PORT=""
      - PODVM_LAUNCHTEMPLATE_NAME=""
      - VSWITCH_ID="vsw-1"
      - SECURITY_GROUP_IDS="sg-1"
      - REGION="cn-hangzhou"
      - IMAGEID="m-1"
      - SYSTEM_DISK_SIZE="50"
      - USE_PUBLIC_IP="true"
      - INSTANCE_TYPE="ecs.g8i.2xlarge"
      - KEYNAME=""
      - EXTERNAL_NETWORK_VIA_PODVM="true"
      - PODVM_INSTANCE_TYPES=""
      - TAGS="key1=value1,key2=value2"
      - FORWARDER_PORT=""
      - PEERPODS_LIMIT_PER_NODE="10"
      - CACERT_FILE="/etc/certificates/ca.crt"
      - CERT_FILE="/etc/certificates/client.crt"
      - CERT_KEY="/etc/certificates/client.key"
      - TLS_SKIP_VERIFY=""
secretGenerator:
  - name: auth-json-secret
    namespace: confidential-containers-system
    files: []
  - name: peer-pods-secret
    namespace: confidential-containers-system
    envs: [alibabacloud-cred.env]
  - name: certs-for-tls
    namespace: confidential-containers-system
    files: [ca.crt, client.crt, client.key]
patches:
  - path: patch.yaml
"""
PATCH = """
apiVersion: v1
kind: ServiceAccount
metadata:
  name: cloud-api-adaptor
  namespace: confidential-containers-system
  annotations: {pod-identity.alibabacloud.com/role-name: caa-alibaba}
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: cloud-api-adaptor-daemonset
  namespace: confidential-containers-system
  labels: {app: cloud-api-adaptor}
spec:
  selector: {matchLabels: {app: cloud-api-adaptor}}
  updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 1}}
  template:
    metadata: {labels: {app: cloud-api-adaptor}}
    spec:
      containers:
        - name: cloud-api-adaptor-con
          volumeMounts:
            - mountPath: /var/run/secrets/ack.alibabacloud.com/rrsa-tokens
              name: rrsa-oidc-token
              readOnly: true
            - {mountPath: /etc/certificates, name: certs}
      volumes:
        - name: rrsa-oidc-token
          projected:
            defaultMode: 420
            sources:
              - serviceAccountToken: {audience: sts.aliyuncs.com, expirationSeconds: 3600, path: token}
        - name: certs
          secret: {secretName: certs-for-tls}
"""


def test_a_kustomization_of_the_go_daemon_is_moved_by_its_first_line(overlays: Path, build: Build) -> None:
    """All names that the guide uses for generators, settings and patches; only `resources` is changed."""
    overlay = overlays / "moved"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(MOVED)
    (overlay / "patch.yaml").write_text(PATCH)
    credentials = DEPLOY / "kustomize/overlays/ack/alibabacloud-cred.env"
    (overlay / "alibabacloud-cred.env").write_text(credentials.read_text())
    for name in ("ca.crt", "client.crt", "client.key"):
        (overlay / name).write_text("")
    moved = manifests.build(overlay)
    parsed = load({}, environment(moved))
    assert parsed.alibabacloud.instance_type == "ecs.g8i.2xlarge"
    assert parsed.alibabacloud.tags == {"key1": "value1", "key2": "value2"}
    assert parsed.vxlan_port == 4789
    assert parsed.cert_key == "/etc/certificates/client.key"
    assert parsed.alibabacloud.oidc_token_file.endswith("rrsa-tokens/token")
    mounts = [mount["mountPath"] for mount in moved.daemon().container["volumeMounts"]]
    plain = [mount["mountPath"] for mount in build("ack").daemon().container["volumeMounts"]]
    assert sorted(mounts) == sorted([*plain, "/etc/certificates"]), "what is there already is not doubled"
