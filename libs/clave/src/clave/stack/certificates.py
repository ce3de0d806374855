"""Certificates of the stack: a generated one for the public port, and one for each service when hops are mutual.

Two authorities, because they vouch for different things. ``public`` signs the certificate that clients of the edge
see; its ``ca.pem`` is what users are given. ``services`` signs what services and the edge show each other; holding a
certificate of it is what lets a caller reach a service's port. Authorities last ten years, certificates 397 days; a
start or a reload renews what has less than thirty days left.
"""

import datetime as dt
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clave.failures import EnvironmentFailure
from clave.stack.secrets import write_secret

_AUTHORITY_DAYS = 3650
_CERTIFICATE_DAYS = 397  # the longest that clients accept from authorities
_RENEW_DAYS = 30
_CLOCK_SKEW = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, as files.

    Attributes:
        certificate: The chain, PEM.
        key: The private key, PEM, 0600.
        authority: Whom to trust to believe it; None for the system's own authorities.
    """

    certificate: Path
    key: Path
    authority: Path | None


def ensure_certificate(folder: Path, name: str, *, hosts: tuple[str, ...], client: bool = False) -> Certificate:
    """Make a certificate, and its authority where there is none, or keep one that is good for long enough.

    Args:
        folder: The authority's folder, made 0700.
        name: Common name and file name.
        hosts: DNS names and addresses that it vouches for.
        client: Whether it may also be shown by a caller.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority, authority_key = folder / "ca.pem", folder / "ca.key"
    if not _is_good(authority, authority_key, hosts=()):
        _issue(authority, authority_key, name=f"clave {folder.name} authority", issuer=None, hosts=(), client=False)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    if not _is_good(certificate, key, hosts=hosts, authority=authority):
        _issue(certificate, key, name=name, issuer=(authority, authority_key), hosts=hosts, client=client)
    return Certificate(certificate=certificate, key=key, authority=authority)


def local_hosts() -> tuple[str, ...]:
    """Names under which callers may know this machine."""
    return ("localhost", "127.0.0.1", "::1", socket.gethostname())


def own_certificate(certificate: Path, key: Path) -> Certificate:
    """Check a certificate that the user brings.

    Raises:
        EnvironmentFailure: A file cannot be read, they do not belong together, or the certificate is out of date.
    """
    remedy = "Give PEM files with --tls-cert CHAIN and --tls-key KEY; the key without a pass phrase."
    try:
        shown = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise EnvironmentFailure(
            f"The certificate {certificate} or its key {key} cannot be read: {error}.", remedy=remedy
        ) from error
    if private.public_key() != shown.public_key():
        raise EnvironmentFailure(f"{key} is not the key of {certificate}.", remedy=remedy)
    if shown.not_valid_after_utc < dt.datetime.now(dt.UTC):
        raise EnvironmentFailure(f"{certificate} ended on {shown.not_valid_after_utc:%Y-%m-%d}.", remedy=remedy)
    self_issued = shown.issuer == shown.subject
    return Certificate(certificate=certificate, key=key, authority=certificate if self_issued else None)


def names_of(certificate: Path) -> tuple[str, ...]:
    """List the DNS names and addresses that a certificate vouches for."""
    shown = x509.load_pem_x509_certificate(certificate.read_bytes())
    try:
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def _is_good(certificate: Path, key: Path, *, hosts: tuple[str, ...], authority: Path | None = None) -> bool:
    if not (certificate.exists() and key.exists()):
        return False
    shown = x509.load_pem_x509_certificate(certificate.read_bytes())
    left = shown.not_valid_after_utc - dt.datetime.now(dt.UTC)
    if authority is not None and shown.issuer != x509.load_pem_x509_certificate(authority.read_bytes()).subject:
        return False
    return left > dt.timedelta(days=_RENEW_DAYS) and set(hosts) <= set(names_of(certificate))


def _issue(
    certificate: Path,
    key: Path,
    *,
    name: str,
    issuer: tuple[Path, Path] | None,
    hosts: tuple[str, ...],
    client: bool,
) -> None:
    private = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    signer, signed_by = private, subject
    if issuer is not None:
        signed_by = x509.load_pem_x509_certificate(issuer[0].read_bytes()).subject
        signer = _load_key(issuer[1])
    now = dt.datetime.now(dt.UTC)
    days = _AUTHORITY_DAYS if issuer is None else _CERTIFICATE_DAYS
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signed_by)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
        .add_extension(_usage(signs=issuer is None), True)
    )
    if issuer is not None:
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if client else [])]
        builder = builder.add_extension(names, False).add_extension(x509.ExtendedKeyUsage(purposes), False)
    shown = builder.sign(signer, hashes.SHA256())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_secret(key, pem.decode())
    write_secret(certificate, shown.public_bytes(Encoding.PEM).decode())


def _load_key(path: Path) -> EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise TypeError(f"{path} does not hold an elliptic-curve key")
    return key


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
