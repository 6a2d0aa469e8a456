"""Who trusts whom between daemon and forwarder.

The daemon has a self-signed client certificate, which is all that a forwarder trusts, and a CA, which is all
that the daemon trusts; the CA signs a certificate for each pod VM's forwarder. The peer may be the Go program
of an existing image or node.
"""

import os
import re
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from caa.errors import ConfigError, InvalidArgumentError, StartupError

GIVEN_CERTIFICATE_NAME = "podvm-server"
"""The name in the forwarders' certificate where that is given by a file: it can't be each VM's own."""

_CLIENT_ORGANIZATION = "cloud-api-adaptor"
_CA_ORGANIZATION = "agent-protocol-forwarder"

_VALID = timedelta(days=730)
_BACKDATED = timedelta(minutes=5)
"""A VM's clock may be a little behind ours when it boots."""

_RENEWAL = timedelta(days=180)
"""How long before their end certificates are replaced, when a daemon starts.

A pod VM trusts for its whole life the client certificate that it was created with, until that is out of date.
So every pod's lost connections can be made anew for at least this long.
"""

_LAST_WARNING = timedelta(days=30)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Credentials:
    """A certificate and its private key, as PEM."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Authority:
    """The daemon's client certificate and CA. Both outlive a restart: running pods' forwarders know them.

    They are made and replaced together. Those that were replaced are `earlier` until they are out of date:
    the forwarders of pods from that time know only them.
    """

    client: Credentials
    ca: Credentials
    earlier: "Authority | None" = None

    @property
    def client_certificate(self) -> str:
        return self.client.certificate

    @staticmethod
    def load_or_create(folder: Path) -> "Authority":
        """What is stored in `folder`, or new ones if that is nothing or is about to end.

        Raises StartupError if what is there can't be read or used.
        """
        current_path, earlier_path = folder / "authority.pem", folder / "authority-earlier.pem"
        now = datetime.now(UTC)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            current, earlier = _read(current_path), _read(earlier_path)
            if current is not None and current.ends - now < _RENEWAL:
                current_path.replace(earlier_path)
                current, earlier = None, current
            if current is None:
                current = _create(now)
                _log.info("made a client certificate and a CA", file=str(current_path), end=str(current.ends))
                _write(current_path, current)
        except OSError as error:
            raise StartupError(f"the TLS keys in {folder}: {error.strerror or error}") from error
        if earlier is not None and earlier.ends < now:
            earlier = None
        return replace(current, earlier=earlier)

    def issue(self, server_name: str) -> tuple[str, str]:
        """A certificate for the forwarder of the VM with this name, and its key, as PEM.

        Raises InvalidArgumentError if that can't be a host's name.
        """
        if not re.fullmatch(r"(?![-.])[A-Za-z0-9.-]{1,64}", server_name):
            raise InvalidArgumentError(
                f"{server_name!r} can't be the name in a certificate: it is not a host's name"
            )
        now = datetime.now(UTC)
        if self.ends - now < _LAST_WARNING:
            _log.warning(
                "the TLS certificates are about to end: restart the daemon to renew them", end=str(self.ends)
            )
        server = _certify(_CA_ORGANIZATION, now, server_name=server_name, issuer=self.ca)
        return server.certificate, server.key

    @property
    def ends(self) -> datetime:
        """When the first of the two certificates is out of date."""
        return min(_parse(of.certificate).not_valid_after_utc for of in (self.client, self.ca))


def _create(now: datetime) -> Authority:
    return Authority(_certify(_CLIENT_ORGANIZATION, now), _certify(_CA_ORGANIZATION, now, is_ca=True))


def _read(path: Path) -> Authority | None:
    try:
        text = path.read_text("ascii", "replace")
    except FileNotFoundError:
        return None
    try:
        client, client_key, ca, ca_key = re.findall(
            r"-----BEGIN [A-Z ]+-----[^-]+-----END [A-Z ]+-----\n", text
        )
        for certificate, key in ((client, client_key), (ca, ca_key)):
            if _parse(certificate).public_key() != load_pem_private_key(key.encode(), None).public_key():
                raise ValueError("a key is not its certificate's")  # noqa: TRY301  told below like any other fault
    except (ValueError, TypeError) as error:
        raise StartupError(
            f"{path} is not what was stored there ({error}): restore it; or remove it, and"
            " lost connections to the pods that run now can't be made anew"
        ) from None
    return Authority(Credentials(client, client_key), Credentials(ca, ca_key))


def _write(path: Path, authority: Authority) -> None:
    """All or nothing, private from its first byte, and on the disk when this returns."""
    text = "".join(of.certificate + of.key for of in (authority.client, authority.ca))
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _parse(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def _certify(
    organization: str,
    now: datetime,
    *,
    server_name: str = "",
    is_ca: bool = False,
    issuer: Credentials | None = None,
) -> Credentials:
    """A certificate for a CA, for a server of that name, or else for a client. Self-signed without issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)]
    if server_name:
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, server_name))
    begin, end = now - _BACKDATED, now - _BACKDATED + _VALID
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .public_key(key.public_key())
        .serial_number(1 + secrets.randbelow(2**128 - 1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(_key_usage(is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if not is_ca:
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server_name else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if server_name:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(server_name)]), critical=False
        )
    if issuer is None:
        builder, signing_key = builder.issuer_name(x509.Name(subject)), key
    else:
        authority, authority_key = _parse(issuer.certificate), load_pem_private_key(issuer.key.encode(), None)
        assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
        signing_key = authority_key
        begin, end = max(begin, authority.not_valid_before_utc), min(end, authority.not_valid_after_utc)
        builder = builder.issuer_name(authority.subject).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False
        )
    certificate = builder.not_valid_before(begin).not_valid_after(end).sign(signing_key, hashes.SHA256())
    return Credentials(
        certificate.public_bytes(Encoding.PEM).decode(),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


def _key_usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def client_context(
    authority: Authority | None,
    *,
    ca_cert_file: str = "",
    cert_file: str = "",
    cert_key: str = "",
    skip_verify: bool = False,
    min_version: str = "",
    cipher_suites: Sequence[str] = (),
) -> ssl.SSLContext:
    """The daemon's side: what is given by files is used, the rest is `authority`'s.

    `min_version` is VersionTLS12, VersionTLS13 or "" (1.2); `cipher_suites` are IANA names, for TLS 1.2.
    Raises ConfigError.
    """
    if ca_cert_file and skip_verify:
        raise ConfigError(
            "--tls-skip-verify (TLS_SKIP_VERIFY) and --ca-cert-file (CACERT_FILE) contradict each"
            " other: leave one out"
        )
    context = _context(ssl.PROTOCOL_TLS_CLIENT, min_version, cipher_suites)
    context.hostname_checks_common_name = False
    if cert_file:
        _show(context, Credentials(read_pem(cert_file), read_pem(cert_key)), cert_file)
    elif authority is not None:
        _show(context, authority.client, "the daemon's client certificate")
    if skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_cert_file:
        _trust(context, read_pem(ca_cert_file), ca_cert_file)
    elif authority is not None:
        _trust(context, authority.ca.certificate, "the daemon's CA")
    return context


def server_context(
    credentials: Credentials,
    *,
    client_ca: str,
    skip_verify: bool = False,
    min_version: str = "",
    cipher_suites: Sequence[str] = (),
) -> ssl.SSLContext:
    """The forwarder's side.

    `client_ca` is PEM: a CA, or a client's own certificate, which then is the only one that is accepted.
    With `skip_verify` no client certificate is asked for. The rest is as for client_context. Raises
    ConfigError.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, min_version, cipher_suites)
    context.sslobject_class = _AlertingSSLObject
    _show(context, credentials, "the forwarder's certificate")
    if skip_verify:
        return context
    if not client_ca:
        raise ConfigError("there is no certificate to check clients with: the forwarder would serve anybody")
    for anchor in x509.load_pem_x509_certificates(client_ca.encode()):
        _refuse_if_ambiguous(anchor)
    # A certificate that is not a CA is trusted as it is, even if some CA elsewhere has signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_mode = ssl.CERT_REQUIRED
    _trust(context, client_ca, "the certificate to check clients with")
    return context


class _AlertingSSLObject(ssl.SSLObject):
    """Tells the client why a handshake fails.

    The event loops drop the connection as soon as a handshake raises, and OpenSSL's alert with it. What is
    raised first here has them send the alert and wait for the client, which leaves, or sends more and is
    dropped.
    """

    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._failure = error
            raise ssl.SSLWantReadError from error


def read_pem(path: str) -> str:
    """Raises ConfigError if the file can't be read."""
    try:
        return Path(path).read_text("ascii", "replace")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _context(protocol: int, min_version: str, cipher_suites: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.minimum_version = _minimum(min_version)
    if not cipher_suites:
        return context
    if context.minimum_version is ssl.TLSVersion.TLSv1_3:
        raise ConfigError(
            "cipher suites are for TLS 1.2 only and can't go with the minimum version VersionTLS13"
        )
    unknown = [name for name in cipher_suites if name not in _CIPHERS and name not in _TLS13_CIPHERS]
    if unknown:
        raise ConfigError(f"no such cipher suite: {', '.join(unknown)}; known are {', '.join(_CIPHERS)}")
    chosen = [_CIPHERS[name] for name in cipher_suites if name in _CIPHERS]
    if not chosen:  # TLS 1.3's own suites can't be chosen from, so naming only these leaves nothing for 1.2
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context
    try:
        context.set_ciphers(":".join(chosen))
    except ssl.SSLError as error:
        raise ConfigError(f"this OpenSSL has none of the cipher suites {', '.join(cipher_suites)}") from error
    return context


def _minimum(version: str) -> ssl.TLSVersion:
    match version:
        case "" | "VersionTLS12":
            return ssl.TLSVersion.TLSv1_2
        case "VersionTLS13":
            return ssl.TLSVersion.TLSv1_3
    raise ConfigError(f"no such TLS version: {version!r}; allowed: VersionTLS12, VersionTLS13")


def _show(context: ssl.SSLContext, credentials: Credentials, what: str) -> None:
    """Show the peer this certificate. OpenSSL takes only files, so the key goes into one that has no name."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{credentials.key}\n{credentials.certificate}")
        file.flush()
        try:
            # OpenSSL would ask the terminal for the password of a key that has one.
            context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: b"")
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise ConfigError(f"{what} and its key can't be used: {reason}") from error


def _trust(context: ssl.SSLContext, pem: str, what: str) -> None:
    try:
        context.load_verify_locations(cadata=pem)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what} can't be used: {getattr(error, 'reason', None) or error}") from error


def _refuse_if_ambiguous(anchor: x509.Certificate) -> None:
    """OpenSSL takes an old self-signed certificate for a CA if it does not say that it is none."""
    try:
        anchor.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        if anchor.issuer == anchor.subject:
            raise ConfigError(
                f"the certificate to check clients with ({anchor.subject.rfc4514_string()}) does not"
                " say whether it is a CA: make it with basic constraints"
            ) from None


_CIPHERS = {
    f"TLS_{exchange}_WITH_{iana}": f"{prefix}{openssl}"
    for exchange, prefix in (
        ("ECDHE_ECDSA", "ECDHE-ECDSA-"),
        ("ECDHE_RSA", "ECDHE-RSA-"),
        ("RSA", ""),
    )
    for iana, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        ("CHACHA20_POLY1305", "CHACHA20-POLY1305"),  # Go's older name of the same
        ("AES_128_CBC_SHA256", "AES128-SHA256"),
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
    )
    if not (exchange == "RSA" and iana.startswith("CHACHA20"))
}
"""OpenSSL's names of the TLS 1.2 cipher suites that Go knows, by their IANA names."""

_TLS13_CIPHERS = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
"""Part of the lists that platforms hand out; in TLS 1.3 they are always on, in Go too."""
