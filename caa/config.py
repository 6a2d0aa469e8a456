"""Settings: one frozen object, made once from flags and environment.

Each option is declared in one place, the field that holds it: flag, environment names, default, parser
and help. The command line (`caa/cli`) and the messages below are made from these declarations.
Rules: a flag beats its environment variable, that beats the default; an empty
variable counts as unset; every problem is reported, together.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

from caa.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """How a setting is given."""

    flag: str
    env: tuple[str, ...]
    default: str
    parse: Callable[[str], Any]
    """From text to value. Raises ValueError saying what is allowed."""
    help: str
    group: str
    required: bool = False
    secret: bool = False
    unless: str = ""
    """Flag of the option that can stand in for this one, where it is required."""

    @property
    def given_as(self) -> str:
        return " or ".join((f"--{self.flag}", *self.env))


def _boolean(text: str) -> bool:
    match text.lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise ValueError("allowed: true, 1, false, 0")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"-?\d{1,10}", text) and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"allowed: a whole number from {low} to {high}")

    return parse


_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Seconds of a Go duration (time.ParseDuration), such as 300s, 5m or 1h30m; it must be above zero."""
    if re.fullmatch(f"(?:{_DURATION_PART.pattern})+", text):
        seconds = sum(float(number) * _DURATION_UNITS[unit] for number, unit in _DURATION_PART.findall(text))
        if seconds > 0:
            return seconds
    raise ValueError("allowed: a duration above zero with its unit, such as 300s, 5m or 1h30m")


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _pairs(text: str) -> Mapping[str, str]:
    pairs: dict[str, str] = {}
    for item in _list(text):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ValueError("allowed: key=value pairs with commas between them, such as team=ml,env=prod")
        pairs[key.strip()] = value.strip()
    return MappingProxyType(pairs)


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text in allowed:
            return text
        raise ValueError(f"allowed: {', '.join(allowed)}")

    return parse


def _cidrs(text: str) -> tuple[str, ...]:
    import ipaddress  # noqa: PLC0415  a tenth of the command's start-up time, for an option that is rarely set

    networks = []
    for item in _list(text):
        try:
            networks.append(str(ipaddress.IPv4Network(item)))
        except ValueError as error:
            raise ValueError(f"allowed: IPv4 networks with commas between them; {error}") from None
    return tuple(networks)


def _addresses(text: str) -> tuple[str, ...]:
    import ipaddress  # noqa: PLC0415  as above

    try:
        addresses = tuple(str(ipaddress.ip_address(item)) for item in _list(text))
    except ValueError as error:
        raise ValueError(f"allowed: IP addresses with commas between them; {error}") from None
    if not addresses:
        raise ValueError("allowed: one IP address or more, with commas between them")
    return addresses


TlsVersion = Literal["", "VersionTLS12", "VersionTLS13"]
"""As the forwarder's config spells it; "": the default, which is TLS 1.2."""


def _tls_version(text: str) -> TlsVersion:
    match text:
        case "":
            return ""
        case "VersionTLS12" | "1.2":
            return "VersionTLS12"
        case "VersionTLS13" | "1.3":
            return "VersionTLS13"
    raise ValueError("allowed: VersionTLS12 (or 1.2), VersionTLS13 (or 1.3)")


def _podvm_version(text: str) -> str:
    if text == "auto" or re.fullmatch(r"\d+\.\d+(\.\d+)?", text):
        return text
    raise ValueError("allowed: auto, or an image's version such as 0.13 or 0.15")


def _absolute_path(text: str) -> Path:
    if text.startswith("/"):
        return Path(text)
    raise ValueError("allowed: an absolute path")


def _optional_path(text: str) -> Path | None:
    return _absolute_path(text) if text else None


def _option(
    flag: str,
    env: str | tuple[str, ...] = (),
    default: str = "",
    parse: Callable[[str], T] = str,  # type: ignore[assignment]  # T is str when no parser is given
    *,
    help: str,  # noqa: A002  named as the thing it is
    group: str,
    required: bool = False,
    secret: bool = False,
    unless: str = "",
) -> T:
    envs = (env,) if isinstance(env, str) else env
    declared = Option(flag, envs, default, parse, help, group, required, secret, unless)
    return cast(T, dataclasses.field(metadata={"option": declared}, repr=not secret))


_CLOUD = "Alibaba Cloud"
_CREDENTIALS = "Credentials"
_SOCKETS = "Sockets and folders"
_AGENT = "Connection to the pod VM"
_NETWORK = "Pod network"
_POD_VM = "Pod VMs"
_LOGGING = "Logging"
_OBSERVING = "Metrics and probes"
_CLUSTER = "Kubernetes"
_REAPING = "Reaping"

GROUPS = (_CLOUD, _CREDENTIALS, _POD_VM, _NETWORK, _AGENT, _SOCKETS, _CLUSTER, _REAPING, _LOGGING, _OBSERVING)


@dataclass(frozen=True, kw_only=True)
class AlibabaCloudSettings:
    """What `providers/alibabacloud` needs. Field types are those after parsing; "" and () mean not set."""

    region: str = _option("region", "REGION", "cn-beijing", help="Region of the instances.", group=_CLOUD)
    image_id: str = _option(
        "imageid",
        "IMAGEID",
        help="ECS image of the pod VMs, such as m-2ze….",
        group=_CLOUD,
        required=True,
        unless="launch-template-name",
    )
    instance_type: str = _option(
        "instance-type",
        ("PODVM_INSTANCE_TYPE", "INSTANCE_TYPE"),
        "ecs.g8i.xlarge",
        help="Instance type, where neither pod nor --instance-types chooses.",
        group=_CLOUD,
    )
    instance_types: tuple[str, ...] = _option(
        "instance-types",
        "PODVM_INSTANCE_TYPES",
        parse=_list,
        help="Types that a pod may get, comma separated; the smallest that fits its demands is taken.",
        group=_CLOUD,
    )
    vswitch_ids: tuple[str, ...] = _option(
        "vswitch-id",
        "VSWITCH_ID",
        parse=_list,
        help="vSwitch of the instances; a comma separated list is tried in order.",
        group=_CLOUD,
        required=True,
        unless="launch-template-name",
    )
    security_group_ids: tuple[str, ...] = _option(
        "security-group-ids",
        "SECURITY_GROUP_IDS",
        parse=_list,
        help="Security groups of the instances, comma separated. They must let TCP 15150 and UDP 4789 in"
        " from the workers.",
        group=_CLOUD,
        required=True,
        unless="launch-template-name",
    )
    launch_template_name: str = _option(
        "launch-template-name",
        "PODVM_LAUNCHTEMPLATE_NAME",
        help="Launch template (its default version) for what is not set here: image, type, vSwitch, security"
        " groups, disk, key pair.",
        group=_CLOUD,
    )
    key_name: str = _option("keyname", "KEYNAME", help="SSH key pair for the instances.", group=_CLOUD)
    use_public_ip: bool = _option(
        "use-public-ip",
        "USE_PUBLIC_IP",
        "false",
        _boolean,
        help="Give each instance a public address and reach it by that.",
        group=_CLOUD,
    )
    system_disk_size: int = _option(
        "system-disk-size",
        "SYSTEM_DISK_SIZE",
        "40",
        _whole(0, 2048),
        help="System disk in GiB; 0: the image's own size.",
        group=_CLOUD,
    )
    disable_cvm: bool = _option(
        "disable-cvm",
        "DISABLECVM",
        "false",
        _boolean,
        help="Make ordinary instances, without Intel TDX.",
        group=_CLOUD,
    )
    vpc_id: str = _option("vpc-id", help="VPC; looked up from the vSwitch if not given.", group=_CLOUD)
    tags: Mapping[str, str] = _option(
        "tags", "TAGS", parse=_pairs, help="Tags for the instances: k=v,k=v.", group=_CLOUD
    )
    cloud_config_verify: bool = _option(
        "cloud-config-verify",
        "CLOUD_CONFIG_VERIFY",
        "false",
        _boolean,
        help="Ask the cloud about every setting at startup, and stop if one is wrong.",
        group=_CLOUD,
    )
    ecs_endpoint: str = _option(
        "ecs-endpoint", "ALIBABACLOUD_ECS_ENDPOINT", help="ECS endpoint; default: the region's.", group=_CLOUD
    )
    vpc_endpoint: str = _option(
        "vpc-endpoint", "ALIBABACLOUD_VPC_ENDPOINT", help="VPC endpoint; default: the region's.", group=_CLOUD
    )
    sts_endpoint: str = _option(
        "sts-endpoint", "ALIBABACLOUD_STS_ENDPOINT", help="STS endpoint; default: the region's.", group=_CLOUD
    )
    ca_file: str = _option(
        "ca-file",
        "ALIBABACLOUD_CA_FILE",
        help="PEM file of the CA that the endpoints' certificates are checked with.",
        group=_CLOUD,
    )
    access_key_id: str = _option(
        "alibabacloud-access-key-id",
        "ALIBABACLOUD_ACCESS_KEY_ID",
        help="Access key; without one, the service account's role (RRSA) is used.",
        group=_CREDENTIALS,
    )
    access_key_secret: str = _option(
        "alibabacloud-secret-access-key",
        "ALIBABACLOUD_ACCESS_KEY_SECRET",
        help="Secret of the access key. Better given by environment: others can see a flag for a moment.",
        group=_CREDENTIALS,
        secret=True,
    )
    security_token: str = _option(
        "alibabacloud-security-token",
        "ALIBABACLOUD_SECURITY_TOKEN",
        help="Session token of a temporary access key.",
        group=_CREDENTIALS,
        secret=True,
    )
    role_arn: str = _option(
        "role-arn", "ALIBABA_CLOUD_ROLE_ARN", help="RRSA: ARN of the RAM role.", group=_CREDENTIALS
    )
    oidc_provider_arn: str = _option(
        "oidc-provider-arn",
        "ALIBABA_CLOUD_OIDC_PROVIDER_ARN",
        help="RRSA: ARN of the cluster's OIDC provider.",
        group=_CREDENTIALS,
    )
    oidc_token_file: str = _option(
        "oidc-token-file",
        "ALIBABA_CLOUD_OIDC_TOKEN_FILE",
        help="RRSA: file of the service account's token.",
        group=_CREDENTIALS,
    )
    given: frozenset[str] = frozenset()
    """Fields that flags or environment gave, and not a default: what goes on top of a launch template."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a daemon is told. Times are in seconds, sizes in bytes unless a name says otherwise."""

    alibabacloud: AlibabaCloudSettings

    socket: Path = _option(
        "socket",
        "REMOTE_HYPERVISOR_ENDPOINT",
        "/run/peerpod/hypervisor.sock",
        _absolute_path,
        help="Where the Kata shim calls (ttRPC).",
        group=_SOCKETS,
    )
    grpc_socket: Path | None = _option(
        "grpc-socket",
        "HYPERVISOR_GRPC_ENDPOINT",
        "/run/peerpod/hypervisor-grpc.sock",
        _optional_path,
        help='The same service over gRPC, for tools; "" turns it off.',
        group=_SOCKETS,
    )
    pods_dir: Path = _option(
        "pods-dir",
        "PODS_DIR",
        "/run/peerpod/pods",
        _absolute_path,
        help="Folder of the pods' agent sockets.",
        group=_SOCKETS,
    )
    state_dir: Path = _option(
        "state-dir",
        "CAA_STATE_DIR",
        "/var/lib/caa",
        _absolute_path,
        help="Folder of the journal and the TLS keys; must outlive the daemon.",
        group=_SOCKETS,
    )
    pause_image: str = _option(
        "pause-image", "PAUSE_IMAGE", help="Accepted for older manifests; not used.", group=_POD_VM
    )
    initdata: str = _option(
        "initdata",
        "INITDATA",
        help="Initdata for pods that bring none: gzip, then base64.",
        group=_POD_VM,
    )
    node_name: str = _option(
        "node-name",
        "NODE_NAME",
        help="Name of this node, which the instances' tags carry; default: the host's.",
        group=_POD_VM,
    )
    peerpods_limit_per_node: int = _option(
        "peerpods-limit-per-node",
        "PEERPODS_LIMIT_PER_NODE",
        "10",
        _whole(-1_000_000, 1_000_000),
        help="Capacity of pod VMs that this node advertises; negative: none.",
        group=_CLUSTER,
    )
    pod_uid: str = _option(
        "pod-uid",
        "POD_UID",
        help="Uid of the daemon's own pod, which the node's annotation names as the owner of that capacity.",
        group=_CLUSTER,
    )
    runtime_class_name: str = _option(
        "runtimeclass-name",
        "RUNTIMECLASS_NAME",
        "kata-remote",
        help="Runtime class of the pods that the startup probe waits for.",
        group=_CLUSTER,
    )
    enable_scratch_space: bool = _option(
        "enable-scratch-space",
        "ENABLE_SCRATCH_SPACE",
        "false",
        _boolean,
        help="Have the pod VM set up encrypted scratch space.",
        group=_POD_VM,
    )
    podvm_version: str = _option(
        "podvm-version",
        "PODVM_VERSION",
        "auto",
        _podvm_version,
        help="Version of the pod VM image, which decides the name of its config file; auto: both names.",
        group=_POD_VM,
    )
    forwarder_port: int = _option(
        "forwarder-port",
        "FORWARDER_PORT",
        "15150",
        _whole(1, 65535),
        help="TCP port of the agent protocol forwarder in the pod VM.",
        group=_AGENT,
    )
    proxy_timeout: float = _option(
        "proxy-timeout",
        "PROXY_TIMEOUT",
        "5m",
        parse_duration,
        help="How long to try to reach the forwarder: 300s, 5m, 1h30m.",
        group=_AGENT,
    )
    ca_cert_file: str = _option(
        "ca-cert-file", "CACERT_FILE", help="CA that signed the forwarders' certificates.", group=_AGENT
    )
    cert_file: str = _option("cert-file", "CERT_FILE", help="The daemon's client certificate.", group=_AGENT)
    cert_key: str = _option(
        "cert-key", "CERT_KEY", help="File of the client certificate's key.", group=_AGENT
    )
    tls_skip_verify: bool = _option(
        "tls-skip-verify",
        "TLS_SKIP_VERIFY",
        "false",
        _boolean,
        help="Do not check the forwarder's certificate. For tests.",
        group=_AGENT,
    )
    tls_min_version: TlsVersion = _option(
        "tls-min-version",
        "TLS_MIN_VERSION",
        parse=_tls_version,
        help="VersionTLS12 or VersionTLS13.",
        group=_AGENT,
    )
    tls_cipher_suites: tuple[str, ...] = _option(
        "tls-cipher-suites",
        "TLS_CIPHER_SUITES",
        parse=_list,
        help="IANA names of cipher suites, comma separated; TLS 1.2 only.",
        group=_AGENT,
    )
    disable_tls: bool = _option(
        "disable-tls",
        (),
        "false",
        _boolean,
        help="Talk to the forwarder in the clear. For tests.",
        group=_AGENT,
    )
    tunnel_type: str = _option(
        "tunnel-type", "TUNNEL_TYPE", "vxlan", _choice("vxlan"), help="Kind of tunnel.", group=_NETWORK
    )
    vxlan_port: int = _option(
        "vxlan-port", "VXLAN_PORT", "4789", _whole(1, 65535), help="UDP port of the tunnel.", group=_NETWORK
    )
    vxlan_min_id: int = _option(
        "vxlan-min-id",
        (),
        "555000",
        _whole(0, 2**24 - 1),
        help="First VNI; a pod gets this plus its slot.",
        group=_NETWORK,
    )
    host_interface: str = _option(
        "host-interface",
        (),
        help="Interface that carries the tunnels; default: the primary.",
        group=_NETWORK,
    )
    ext_network_via_podvm: bool = _option(
        "ext-network-via-podvm",
        "EXTERNAL_NETWORK_VIA_PODVM",
        "false",
        _boolean,
        help="Pods reach the outside by a second interface of their VM.",
        group=_NETWORK,
    )
    pod_subnet_cidrs: tuple[str, ...] = _option(
        "pod-subnet-cidrs",
        "POD_SUBNET_CIDRS",
        parse=_cidrs,
        help="Networks to route through the pod's gateway, comma separated.",
        group=_NETWORK,
    )
    log_level: str = _option(
        "log-level",
        "LOG_LEVEL",
        "info",
        _choice("debug", "info", "warning", "error"),
        help="debug, info, warning or error.",
        group=_LOGGING,
    )
    log_format: str = _option(
        "log-format",
        "LOG_FORMAT",
        parse=lambda text: _choice("console", "json")(text) if text else "",
        help="console or json; default: console on a terminal and json otherwise.",
        group=_LOGGING,
    )
    probe_port: int = _option(
        "probe-port",
        "PROBE_PORT",
        "8000",
        _whole(0, 65535),
        help="Port for /metrics, /healthz, /readyz and /startup; 0: none.",
        group=_OBSERVING,
    )
    probe_addresses: tuple[str, ...] = _option(
        "probe-address",
        "PROBE_ADDRESS",
        "127.0.0.1",
        _addresses,
        help="Addresses of the probe port, comma separated; the node's own lets Prometheus in.",
        group=_OBSERVING,
    )


def _as_in_settings(name: str) -> Any:
    """The daemon's option of that name, for a command of its own."""
    declared = Settings.__dataclass_fields__[name].metadata["option"]
    return dataclasses.field(metadata={"option": declared}, repr=not declared.secret)


@dataclass(frozen=True, kw_only=True)
class ReaperSettings:
    """Those of `caa reaper`."""

    alibabacloud: AlibabaCloudSettings
    grace: float = _option(
        "grace",
        "REAPER_GRACE",
        "5m",
        parse_duration,
        help="How long a pod has to be gone before its VM is deleted: the time for its node's own daemon.",
        group=_REAPING,
    )
    node_grace: float = _option(
        "node-grace",
        "REAPER_NODE_GRACE",
        "30m",
        parse_duration,
        help="How long a node has to be not ready before the VMs of pods that are being deleted there are.",
        group=_REAPING,
    )
    per_minute: int = _option(
        "per-minute",
        "REAPER_PER_MINUTE",
        "10",
        _whole(1, 1000),
        help="VMs that are deleted within a minute at the most.",
        group=_REAPING,
    )
    max_share: int = _option(
        "max-share",
        "REAPER_MAX_SHARE",
        "50",
        _whole(1, 100),
        help="Percent of all pod VMs that may go within an hour. If it would be more (and more than 10 VMs),"
        " none is deleted and an operator has to look; 100 lets all go.",
        group=_REAPING,
    )
    dry_run: bool = _option(
        "dry-run",
        "REAPER_DRY_RUN",
        "false",
        _boolean,
        help="Only log what would be deleted.",
        group=_REAPING,
    )
    namespace: str = _option(
        "namespace",
        "POD_NAMESPACE",
        help="Namespace of the Lease `caa-reaper`, by which several reapers agree on one; default: the"
        " service account's.",
        group=_CLUSTER,
    )
    log_level: str = _as_in_settings("log_level")
    log_format: str = _as_in_settings("log_format")
    probe_port: int = _as_in_settings("probe_port")
    probe_addresses: tuple[str, ...] = _as_in_settings("probe_addresses")


def reaper_options() -> Iterator[Option]:
    """Those of `caa reaper`, in the order of declaration."""
    cloud = {option.flag for option in cloud_options()} | {"vpc-endpoint"}
    yield from (option for option in options() if option.flag in cloud)
    for field in dataclasses.fields(ReaperSettings):
        if "option" in field.metadata:
            yield field.metadata["option"]


def options() -> Iterator[Option]:
    """Every option of the daemon, in the order of declaration."""
    for declaring in (AlibabaCloudSettings, Settings):
        for field in dataclasses.fields(declaring):
            if "option" in field.metadata:
                yield field.metadata["option"]


def cloud_options() -> Iterator[Option]:
    """Those that calling ECS takes: region, endpoints, credentials."""
    access = ("region", "ecs-endpoint", "sts-endpoint", "ca-file")
    return (option for option in options() if option.group == _CREDENTIALS or option.flag in access)


def _source(option: Option, flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[str, str]:
    """Where an option's text comes from, in words (empty: it is the default), and the text."""
    if option.flag in flags:
        return f"--{option.flag}", flags[option.flag]
    name = next((name for name in option.env if environ.get(name)), "")
    return name, environ[name] if name else option.default


def _values(
    declaring: type,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    problems: list[str],
    *,
    require: bool = True,
) -> dict[str, Any]:
    declared = {
        field.name: cast(Option, field.metadata["option"])
        for field in dataclasses.fields(declaring)
        if "option" in field.metadata
    }
    sources = {name: _source(option, flags, environ) for name, option in declared.items()}
    not_empty = {option.flag for name, option in declared.items() if sources[name][1]}
    values: dict[str, Any] = {}
    for name, option in declared.items():
        source, text = sources[name]
        if require and option.required and not text and option.unless not in not_empty:
            problems.append(f"{option.given_as} is required: {option.help}")
            continue
        try:
            values[name] = option.parse(text)
        except ValueError as error:
            shown = "(hidden)" if option.secret else repr(text)
            problems.append(f"{source or 'default'}={shown} is not valid; {error}")
    if "given" in {field.name for field in dataclasses.fields(declaring)}:
        values["given"] = frozenset(name for name, (source, text) in sources.items() if source and text)
    return values


def load(flags: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """Make the settings from `flags` (by flag name, without dashes) and the environment.

    Raises ConfigError that lists every problem, one a line.
    """
    problems: list[str] = []
    cloud = _values(AlibabaCloudSettings, flags, environ, problems)
    daemon = _values(Settings, flags, environ, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    settings = Settings(alibabacloud=AlibabaCloudSettings(**cloud), **daemon)
    _check_together(settings)
    return settings


def load_cloud(flags: Mapping[str, str], environ: Mapping[str, str]) -> AlibabaCloudSettings:
    """As `load`, for a command that reaches the cloud and makes no VM: only the `cloud_options` are read, and
    all others are at their defaults, or empty.
    """
    problems: list[str] = []
    values = _cloud_values(cloud_options(), flags, environ, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return AlibabaCloudSettings(**values)


def load_reaper(flags: Mapping[str, str], environ: Mapping[str, str]) -> ReaperSettings:
    """As `load`, of the `reaper_options`."""
    problems: list[str] = []
    cloud = _cloud_values(reaper_options(), flags, environ, problems)
    reaper = _values(ReaperSettings, flags, environ, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return ReaperSettings(alibabacloud=AlibabaCloudSettings(**cloud), **reaper)


def _cloud_values(
    chosen: Iterator[Option], flags: Mapping[str, str], environ: Mapping[str, str], problems: list[str]
) -> dict[str, Any]:
    """Of those options alone."""
    names = {name for option in chosen for name in option.env}
    known = {name: text for name, text in environ.items() if name in names}
    return _values(AlibabaCloudSettings, flags, known, problems, require=False)


def _check_together(settings: Settings) -> None:
    problems = []
    if settings.tls_cipher_suites and settings.tls_min_version == "VersionTLS13":
        problems.append(
            "--tls-cipher-suites (TLS_CIPHER_SUITES) is for TLS 1.2 only and can't go with"
            " --tls-min-version (TLS_MIN_VERSION) VersionTLS13: leave one of them out"
        )
    if bool(settings.cert_file) != bool(settings.cert_key):
        problems.append("--cert-file (CERT_FILE) and --cert-key (CERT_KEY) go together: give both or neither")
    if settings.ca_cert_file and not settings.cert_file:
        problems.append(
            "--ca-cert-file (CACERT_FILE) needs --cert-file (CERT_FILE) and --cert-key (CERT_KEY): forwarders"
            " with given certificates ask for a given client certificate"
        )
    cloud = settings.alibabacloud
    if settings.ext_network_via_podvm and not (cloud.vswitch_ids and cloud.security_group_ids):
        problems.append(
            "--ext-network-via-podvm (EXTERNAL_NETWORK_VIA_PODVM) needs --vswitch-id (VSWITCH_ID) and"
            " --security-group-ids (SECURITY_GROUP_IDS): the second interface is made with those, and not"
            " from a launch template"
        )
    if problems:
        raise ConfigError("\n".join(problems))
