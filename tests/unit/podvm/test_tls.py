import re
import ssl
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from caa.errors import ConfigError, InvalidArgumentError, StartupError
from caa.podvm import Authority, Credentials, client_context, server_context, tls

VM = "podvm-web-12345678"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.load_or_create(tmp_path / "tls")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority.load_or_create(tmp_path / "stranger")


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str = VM) -> tuple[str, str]:
    """A handshake in memory. Returns the TLS version and cipher suite, or raises the first side's failure."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError as waits:
                if waits.__cause__ is not None:
                    raise waits.__cause__ from None  # the server's alert is on its way
    with pytest.raises(ssl.SSLWantReadError):
        ends[0].read()  # TLS 1.3: would raise the server's alert
    cipher, version = ends[0].cipher(), ends[0].version()
    assert cipher is not None
    assert version is not None
    return version, cipher[0]


def issued(authority: Authority, name: str = VM) -> Credentials:
    return Credentials(*authority.issue(name))


def certify(
    *,
    issuer: Credentials | None,
    organization: str = "caat",
    common_name: str = "",
    is_ca: bool = False,
    constrained: bool = True,
    like_go: bool = False,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
) -> Credentials:
    """A certificate as somebody else might make one; `like_go`: as the Go daemon makes its client's."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)]
    if common_name:
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    signer = load_pem_private_key(issuer.key.encode(), None) if issuer else key
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(parse(issuer.certificate).subject if issuer else x509.Name(subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    if constrained:
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    if like_go:
        usages = {"digital_signature", "key_cert_sign"}
        others = (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        )
        usage_flags = {name: name in usages for name in (*usages, *others)}
        builder = builder.add_extension(x509.KeyUsage(**usage_flags), critical=True)
    return Credentials(
        builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM).decode(),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


def parse(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


# What is made


def test_certificates_are_as_agreed(authority: Authority) -> None:
    client, ca, server = (
        parse(c)
        for c in (authority.client_certificate, authority.ca.certificate, issued(authority).certificate)
    )
    now = datetime.now(UTC)
    for certificate, organization in ((client, "cloud-api-adaptor"), (ca, "agent-protocol-forwarder")):
        assert certificate.subject == certificate.issuer
        (attribute,) = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        assert attribute.value == organization
    for certificate in (client, ca, server):
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
        assert 0 < certificate.serial_number < 2**128
        assert timedelta(minutes=4) < now - certificate.not_valid_before_utc < timedelta(minutes=6)
    assert client.not_valid_after_utc - client.not_valid_before_utc == timedelta(days=730)
    assert server.not_valid_after_utc <= ca.not_valid_after_utc
    usage = client.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not client.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    (common_name,) = server.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common_name.value == VM
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [VM]
    assert issued(authority).key.startswith("-----BEGIN PRIVATE KEY-----\n")
    assert len({parse(issued(authority).certificate).serial_number for _ in range(5)}) == 5


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "x" * 65, "ä", "a\n"])
def test_what_is_no_name_gets_no_certificate(authority: Authority, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="can't be the name in a certificate"):
        authority.issue(name)


def test_a_restart_finds_the_same_ones_and_nobody_else_can_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "tls"
    first = Authority.load_or_create(folder)
    assert Authority.load_or_create(folder) == first
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [(file.name, stat.S_IMODE(file.stat().st_mode)) for file in folder.iterdir()] == [
        ("authority.pem", 0o600)
    ]


def test_keys_do_not_show(authority: Authority) -> None:
    assert "PRIVATE" not in repr(authority)


def test_what_is_about_to_end_is_replaced_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tls"
    with monkeypatch.context() as patched:
        patched.setattr(tls, "_VALID", timedelta(days=181))
        lasting = Authority.load_or_create(folder)
        assert Authority.load_or_create(folder) == lasting
    monkeypatch.setattr(tls, "_RENEWAL", timedelta(days=182))
    renewed = Authority.load_or_create(folder)
    assert renewed.earlier == lasting
    assert renewed.client != lasting.client
    assert renewed.ca != lasting.ca
    assert renewed.ends - datetime.now(UTC) > timedelta(days=700)
    assert Authority.load_or_create(folder) == renewed


def test_what_has_ended_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_VALID", timedelta(minutes=1))  # it began five minutes ago
    Authority.load_or_create(tmp_path)
    monkeypatch.undo()
    assert Authority.load_or_create(tmp_path).earlier is None


def test_a_crash_during_renewal_loses_nothing(tmp_path: Path) -> None:
    lasting = Authority.load_or_create(tmp_path)
    (tmp_path / "authority.pem").rename(tmp_path / "authority-earlier.pem")
    (tmp_path / "authority.new").write_text("half wri")
    assert Authority.load_or_create(tmp_path).earlier == lasting


@pytest.mark.parametrize("damage", ["", "certificates", "\xff\xfe", "swapped"])
def test_a_damaged_file_stops_the_daemon(tmp_path: Path, damage: str) -> None:
    lasting = Authority.load_or_create(tmp_path)
    if damage == "swapped":
        damage = lasting.client.certificate + lasting.ca.key + lasting.ca.certificate + lasting.client.key
    (tmp_path / "authority.pem").write_text(damage, "latin-1")
    with pytest.raises(StartupError, match=r"authority\.pem is not what was stored there .*restore it"):
        Authority.load_or_create(tmp_path)


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=r"the TLS keys in .*/file/tls: Not a directory"):
        Authority.load_or_create(tmp_path / "file" / "tls")


# Who trusts whom

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def server_of(authority: Authority, version: ssl.TLSVersion | None = None, name: str = VM) -> ssl.SSLContext:
    context = server_context(issued(authority, name), client_ca=authority.client_certificate)
    if version is not None:
        context.maximum_version = version
    return context


@VERSIONS
def test_daemon_and_forwarder_accept_each_other(authority: Authority, version: ssl.TLSVersion) -> None:
    spoken, _ = shake_hands(client_context(authority), server_of(authority, version))
    assert spoken == {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version]


def test_a_pod_of_before_the_renewal_accepts_only_the_earlier_certificates(
    authority: Authority, stranger: Authority
) -> None:
    renewed = replace(stranger, earlier=authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client_context(renewed), server_of(authority))
    shake_hands(client_context(renewed.earlier), server_of(authority))


@pytest.mark.parametrize("name", ["podvm-web-12345679", "podvm-web", "web-12345678", "localhost"])
def test_another_vms_name_is_refused(authority: Authority, name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(client_context(authority), server_of(authority, name=name))


def test_the_common_name_alone_does_not_count(authority: Authority) -> None:
    nameless = certify(issuer=authority.ca, common_name=VM, usage=ExtendedKeyUsageOID.SERVER_AUTH)
    server = server_context(nameless, client_ca=authority.client_certificate)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(client_context(authority), server)


def test_another_ca_is_refused(authority: Authority, stranger: Authority) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client_context(authority), server_of(stranger))


def test_a_client_certificate_makes_no_server(authority: Authority) -> None:
    server = server_context(authority.client, client_ca=authority.client_certificate)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client_context(replace(authority, ca=authority.client)), server)


@VERSIONS
@pytest.mark.parametrize(
    "impostor",
    [
        "none",
        "another self-signed",
        "signed by the client's key",
        "signed by the client's key, its name",
        "signed by the client's key, a CA",
        "signed by the CA for servers",
        "server certificate",
    ],
)
def test_the_forwarder_accepts_no_other_client(
    authority: Authority, stranger: Authority, impostor: str, version: ssl.TLSVersion
) -> None:
    organization = "cloud-api-adaptor"
    shown = {
        "another self-signed": stranger.client,
        "signed by the client's key": certify(issuer=authority.client, common_name="me"),
        "signed by the client's key, its name": certify(issuer=authority.client, organization=organization),
        "signed by the client's key, a CA": certify(
            issuer=authority.client, organization=organization, is_ca=True
        ),
        "signed by the CA for servers": certify(issuer=authority.ca, organization=organization),
        "server certificate": issued(authority),
    }
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=authority.ca.certificate)
    if impostor != "none":
        credentials = shown[impostor]
        chain = replace(credentials, certificate=credentials.certificate + authority.client_certificate)
        client = client_context(replace(authority, client=chain))
    with pytest.raises(ssl.SSLError):
        shake_hands(client, server_of(authority, version))


def test_a_leaf_of_some_other_ca_can_be_the_one_trusted_client(authority: Authority) -> None:
    company = certify(issuer=None, common_name="company", is_ca=True)
    given, sibling = (certify(issuer=company, common_name=name) for name in ("given", "sibling"))
    server = server_context(issued(authority), client_ca=given.certificate)
    shake_hands(client_context(replace(authority, client=given)), server)
    for other in (sibling, certify(issuer=given, common_name="child")):
        with pytest.raises(ssl.SSLError):
            shake_hands(client_context(replace(authority, client=other)), server)


@VERSIONS
def test_a_go_daemons_client_certificate_is_accepted_and_no_child_of_it(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    """It may sign certificates by its key usage, but is no CA by its basic constraints."""
    organization = "cloud-api-adaptor"
    theirs = certify(issuer=None, organization=organization, like_go=True)
    server = server_context(issued(authority), client_ca=theirs.certificate)
    server.maximum_version = version
    shake_hands(client_context(replace(authority, client=theirs)), server)
    for child in (
        certify(issuer=theirs, organization=organization),
        certify(issuer=theirs, organization=organization, like_go=True),
        certify(issuer=theirs, common_name="child", is_ca=True),
    ):
        with pytest.raises(ssl.SSLError):
            shake_hands(client_context(replace(authority, client=child)), server)


def test_with_a_ca_its_clients_are_accepted(authority: Authority, stranger: Authority) -> None:
    client = certify(issuer=stranger.ca, common_name="client")
    server = server_context(issued(authority), client_ca=stranger.ca.certificate)
    shake_hands(client_context(replace(authority, client=client)), server)
    with pytest.raises(ssl.SSLError):
        shake_hands(client_context(authority), server)


def test_a_trusted_certificate_must_say_whether_it_is_a_ca(authority: Authority) -> None:
    ambiguous = certify(issuer=None, common_name="old", constrained=False)
    with pytest.raises(ConfigError, match=r"\(CN=old,O=caat\) does not say whether it is a CA"):
        server_context(issued(authority), client_ca=ambiguous.certificate)


def test_a_forwarder_that_would_serve_anybody_does_not_start(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="would serve anybody"):
        server_context(issued(authority), client_ca="")


def test_verification_can_be_off_for_tests(authority: Authority, stranger: Authority) -> None:
    shake_hands(
        client_context(authority, skip_verify=True),
        server_context(issued(stranger), client_ca="", skip_verify=True),
    )


def test_the_client_is_told_why(authority: Authority, stranger: Authority) -> None:
    """The alert reaches the wire although the event loop would drop it."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    unknown = replace(stranger, ca=authority.ca)
    client = client_context(unknown).wrap_bio(to_client, to_server, server_hostname=VM)
    server = server_of(authority).wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    client.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        client.read()
    with pytest.raises(ssl.SSLCertVerificationError):
        server.do_handshake()


# Files and settings


def test_files_take_precedence(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    for name, text in {
        "ca": stranger.ca.certificate,
        "cert": stranger.client.certificate,
        "key": stranger.client.key,
    }.items():
        (tmp_path / name).write_text(text)
    ca, certificate, key = (str(tmp_path / name) for name in ("ca", "cert", "key"))
    shake_hands(
        client_context(None, ca_cert_file=ca, cert_file=certificate, cert_key=key),
        server_of(stranger, name="podvm-server"),
        tls.GIVEN_CERTIFICATE_NAME,
    )
    shake_hands(
        client_context(authority, cert_file=certificate, cert_key=key),
        server_context(issued(authority), client_ca=stranger.client_certificate),
    )


@pytest.mark.parametrize("wrong", ["missing", "no PEM", "another key", "protected key"])
def test_files_that_can_not_be_used_are_named(
    authority: Authority, stranger: Authority, tmp_path: Path, wrong: str
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text(authority.client.certificate)
    if wrong == "no PEM":
        certificate.write_text("hello")
    if wrong != "missing":
        key.write_text(stranger.client.key if wrong == "another key" else authority.client.key)
    if wrong == "protected key":
        protection = BestAvailableEncryption(b"a password")
        unprotected = load_pem_private_key(authority.client.key.encode(), None)
        key.write_bytes(unprotected.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))) as caught:
        client_context(authority, cert_file=str(certificate), cert_key=str(key))
    assert "PRIVATE" not in str(caught.value)


def test_a_ca_that_is_none_is_named(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("hello")
    with pytest.raises(ConfigError, match="/ca can't be used"):
        client_context(authority, ca_cert_file=str(tmp_path / "ca"))


def test_a_ca_and_no_verification_contradict_each_other(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="contradict each other"):
        client_context(authority, ca_cert_file="ca", skip_verify=True)


def test_the_least_version_is_kept(authority: Authority) -> None:
    old = server_of(authority, ssl.TLSVersion.TLSv1_2)
    assert shake_hands(client_context(authority), old)[0] == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        shake_hands(client_context(authority, min_version="VersionTLS13"), old)
    with pytest.raises(ConfigError, match="no such TLS version: 'VersionTLS11'"):
        client_context(authority, min_version="VersionTLS11")


def test_nothing_below_1_2_is_offered(authority: Authority) -> None:
    assert client_context(authority).minimum_version == ssl.TLSVersion.TLSv1_2
    assert server_of(authority).minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("suite", [name for name in tls._CIPHERS if "ECDHE_ECDSA" in name])
def test_cipher_suites_are_those_chosen(authority: Authority, suite: str) -> None:
    suites = ["TLS_AES_128_GCM_SHA256", suite]
    client = client_context(authority, cipher_suites=suites)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    server = server_context(issued(authority), client_ca=authority.client_certificate, cipher_suites=suites)
    assert shake_hands(client, server) == ("TLSv1.2", tls._CIPHERS[suite])


@pytest.mark.parametrize("suite", [*tls._CIPHERS, *tls._TLS13_CIPHERS])
def test_every_known_suite_is_one_of_openssls(authority: Authority, suite: str) -> None:
    names = {cipher["name"] for cipher in client_context(authority, cipher_suites=[suite]).get_ciphers()}
    assert tls._CIPHERS.get(suite, suite) in names


def test_only_suites_of_1_3_leave_only_1_3(authority: Authority) -> None:
    only = server_context(
        issued(authority), client_ca=authority.client_certificate, cipher_suites=["TLS_AES_128_GCM_SHA256"]
    )
    assert shake_hands(client_context(authority), only)[0] == "TLSv1.3"
    assert only.minimum_version == ssl.TLSVersion.TLSv1_3


def test_unknown_suites_are_named(authority: Authority) -> None:
    with pytest.raises(
        ConfigError, match="no such cipher suite: TLS_NONE, AES128-SHA; known are TLS_ECDHE_ECDSA"
    ):
        client_context(authority, cipher_suites=["TLS_NONE", "AES128-SHA"])
    with pytest.raises(ConfigError, match=r"TLS 1\.2 only"):
        client_context(authority, cipher_suites=list(tls._CIPHERS), min_version="VersionTLS13")
