"""What goes into a pod's VM, made from the settings, the pod's request and its network."""

import functools
import ssl
from dataclasses import dataclass, field

import structlog

from caa.agent_proxy import Forwarder
from caa.config import Settings
from caa.errors import ConfigError, InvalidArgumentError
from caa.hypervisor.annotations import PodRequest
from caa.podvm import (
    GIVEN_CERTIFICATE_NAME,
    Authority,
    ForwarderConfig,
    build_user_data,
    client_context,
    initdata,
    instance_name,
    read_pem,
)
from caa.tunnel import PodNetwork

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class VmFiles:
    """One VM's name, and what it is created with."""

    name: str
    forwarder_config: str = field(repr=False)
    user_data: bytes = field(repr=False)


class PodVmFiles:
    """Makes each VM's files, and knows how the daemon and the forwarders know each other."""

    def __init__(self, settings: Settings) -> None:
        """Load or make the TLS material, and check the node's initdata. Raises ConfigError, StartupError."""
        self._settings = settings
        self._initdata = _node_initdata(settings.initdata)
        self._authority: Authority | None = None
        self._client_certificate = ""
        self._tls: ssl.SSLContext | None = None
        self._earlier_tls: tuple[ssl.SSLContext, ...] = ()
        if settings.disable_tls:
            return
        if not settings.ca_cert_file:
            self._authority = Authority.load_or_create(settings.state_dir / "tls")
            self._client_certificate = (
                read_pem(settings.cert_file) if settings.cert_file else self._authority.client_certificate
            )
        self._tls = self._context(self._authority)
        if self._authority and self._authority.earlier:
            self._earlier_tls = (self._context(self._authority.earlier),)

    def _context(self, authority: Authority | None) -> ssl.SSLContext:
        return client_context(
            authority,
            ca_cert_file=self._settings.ca_cert_file,
            cert_file=self._settings.cert_file,
            cert_key=self._settings.cert_key,
            skip_verify=self._settings.tls_skip_verify,
            min_version=self._settings.tls_min_version,
            cipher_suites=self._settings.tls_cipher_suites,
        )

    def forwarder(self, vm_name: str, address: str) -> Forwarder:
        """Where the forwarder of that VM is, and the name that its certificate must have."""
        return Forwarder(
            host=address,
            port=self._settings.forwarder_port,
            server_name=vm_name if self._authority else GIVEN_CERTIFICATE_NAME,
            tls=self._tls,
            earlier_tls=self._earlier_tls,
        )

    def make(
        self, sandbox_id: str, pod: PodRequest, network: PodNetwork, auth_json: bytes | None = None
    ) -> VmFiles:
        """`auth_json` has the pod's image pull secrets; they are left out where there is no room.

        Raises InvalidArgumentError for initdata that is none, or for user data that is too large.
        """
        name = instance_name(pod.name, sandbox_id)
        certificate, key = self._authority.issue(name) if self._authority else ("", "")
        config = ForwarderConfig(
            pod_network=network,
            pod_namespace=pod.namespace,
            pod_name=pod.name,
            tls_server_cert=certificate,
            tls_server_key=key,
            tls_client_ca=self._client_certificate,
            tls_min_version=self._settings.tls_min_version,
            tls_cipher_suites=self._settings.tls_cipher_suites,
        ).to_json()
        user_data = functools.partial(
            build_user_data,
            config,
            podvm_version=self._settings.podvm_version,
            initdata=self._initdata_of(pod),
            scratch_space=self._settings.enable_scratch_space,
        )
        if auth_json:
            try:
                return VmFiles(name, config, user_data(auth_json=auth_json.decode()))
            except InvalidArgumentError as error:
                _log.warning("pull secrets left out of the user data", error=str(error))
        return VmFiles(name, config, user_data())

    def _initdata_of(self, pod: PodRequest) -> bytes:
        if not pod.initdata:
            return self._initdata
        try:
            return initdata.parse(pod.initdata).document
        except InvalidArgumentError as error:
            key = "io.katacontainers.config.hypervisor.cc_init_data"
            raise InvalidArgumentError(f"annotation {key}: {error}") from error


def _node_initdata(encoded: str) -> bytes:
    if not encoded:
        return b""
    try:
        return initdata.parse(initdata.decode(encoded)).document
    except InvalidArgumentError as error:
        raise ConfigError(f"--initdata (INITDATA): {error}") from error
