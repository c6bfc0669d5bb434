"""The operator's own certificate authority: whom it vouches for, and for how long."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.errors import InputError
from edge.deploy.certificates import (
    Request,
    certificate_pem,
    damage,
    is_ed25519,
    read_certificates,
    read_file,
    sdk,
    spki,
    utc_text,
)

if TYPE_CHECKING:
    from cryptography.x509 import (
        Certificate,
        CertificateBuilder,
        CertificateRevocationList,
    )

DEVICE_DAYS = 365
AUTHORITY_DAYS = 3650

_MAKE_ONE = "make one with: edge enroll --make-ca ca"
_EARLIER = timedelta(hours=1)  # for brokers whose clock is behind
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


class Issued(msgspec.Struct, frozen=True):
    """A certificate as PEM; ``ends`` is UTC, as 2027-11-21T15:04:05Z."""

    pem: str
    serial: str
    ends: str


class Authority:
    """Signs what ``read_request`` let through; made by ``read_authority``."""

    def __init__(self, certificate: Certificate, key: Any) -> None:
        self._certificate = certificate
        self._key = key
        self.pem = certificate_pem(certificate)
        self.ends = utc_text(certificate.not_valid_after_utc)

    def sign(self, request: Request, days: int) -> Issued:
        """Vouch for a device as a client, for so many days or until the authority itself ends."""
        x509 = sdk("x509")
        ours = self._certificate
        builder = (
            _builder(request.name, ours.subject, request.public)
            .not_valid_before(max(_now() - _EARLIER, ours.not_valid_before_utc))
            .not_valid_after(min(_now() + timedelta(days=days), ours.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage("digital_signature"), critical=True)
        )
        for extension in (
            x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]),
            x509.SubjectAlternativeName([x509.DNSName(request.name)]),
            _authority_identifier(ours),
        ):
            builder = builder.add_extension(extension, critical=False)
        made = builder.sign(self._key, _hash_for(self._key))
        ends = utc_text(made.not_valid_after_utc)
        return Issued(certificate_pem(made), f"{made.serial_number:x}", ends)

    def sign_list(self, before: CertificateRevocationList | None, serials: Iterable[int]) -> str:
        """Revoke certificates: the next list as PEM, with all that is on the one ``before``.

        It holds until the authority itself ends: a broker whose list has ended lets nobody in.

        Raises:
            InputError: The one before is not ours, or this authority may sign no such lists.
        """
        x509 = sdk("x509")
        ours = self._certificate
        usage = _extension(ours, x509.KeyUsage)
        if usage is not None and not usage.crl_sign:
            raise InputError("this authority may sign no lists of revoked certificates (cRLSign)")
        if before is not None and not before.is_signature_valid(self._key.public_key()):
            raise InputError(
                "the list of revoked certificates was not signed by this authority",
                hint="it is found beside its certificate: ca.crl for ca.pem",
            )
        number = _extension(before, x509.CRLNumber) if before is not None else None
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(ours.subject)
            .last_update(max(_now() - _EARLIER, ours.not_valid_before_utc))
            .next_update(ours.not_valid_after_utc)
            .add_extension(_authority_identifier(ours), critical=False)
            .add_extension(x509.CRLNumber(number.crl_number + 1 if number else 1), critical=False)
        )
        for known in before or ():
            builder = builder.add_revoked_certificate(known)
        for serial in serials:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_now())
            builder = builder.add_revoked_certificate(one.build())
        made: CertificateRevocationList = builder.sign(self._key, _hash_for(self._key))
        return made.public_bytes(sdk("hazmat.primitives.serialization").Encoding.PEM).decode()


def read_authority(
    certificate_path: Path, key_path: Path, ask: Callable[[], bytes] | None = None
) -> Authority:
    """Read an authority's certificate and its private key, both PEM.

    Args:
        ask: Gives the passphrase of a key that has one.
    Raises:
        InputError: One can't be read, they don't belong together, or it is no authority now.
        MissingDependencyError: ``cryptography`` is not installed.
    """
    certificate = read_certificates(certificate_path)[0]
    _check_is_authority(certificate, certificate_path)
    key = _read_key(key_path, ask)
    if spki(key.public_key()) != spki(certificate.public_key()):
        raise InputError(
            f"the key {key_path} does not belong to {certificate_path}",
            hint="give the key that was made with this certificate",
        )
    return Authority(certificate, key)


def make_authority(stem: Path, days: int, passphrase: bytes = b"") -> tuple[Path, Path]:
    """Make an authority in files that are not there yet: ``STEM.pem``, ``STEM.key`` and, with
    nobody on it yet, its list of revoked certificates, ``STEM.crl``.

    Raises:
        InputError: One of them is there, or can't be written.
    """
    x509, serialization = sdk("x509"), sdk("hazmat.primitives.serialization")
    ec = sdk("hazmat.primitives.asymmetric.ec")
    certificate_path, key_path, list_path = (
        stem.with_name(stem.name + end) for end in (".pem", ".key", ".crl")
    )
    for path in (certificate_path, key_path, list_path):
        if path.exists():
            raise InputError(f"{path} is there already", hint="give another name")
    key = ec.generate_private_key(ec.SECP256R1())
    # Two of them are told apart by their names as well, where they are listed.
    name = f"{stem.name[:40]} {_now():%Y-%m-%d %H:%M}"
    made = (
        _builder(name, _named(name), key.public_key())
        .not_valid_before(_now() - _EARLIER)
        .not_valid_after(_now() + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(key, _hash_for(key))
    )
    protection = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, form, protection)
    _write_new(key_path, secret, 0o600)
    _write_new(certificate_path, certificate_pem(made).encode(), 0o644)
    _write_new(list_path, Authority(made, key).sign_list(None, ()).encode(), 0o644)
    return certificate_path, key_path


def _check_is_authority(certificate: Certificate, path: Path) -> None:
    x509 = sdk("x509")
    basic = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    if basic is None or not basic.ca or not (usage is None or usage.key_cert_sign):
        raise InputError(f"{path} is no certificate of an authority (CA:TRUE)", hint=_MAKE_ONE)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if ends <= _now():
        raise InputError(f"the authority {path} ended at {utc_text(ends)}", hint=_MAKE_ONE)
    if begins > _now():
        raise InputError(
            f"the authority {path} begins at {utc_text(begins)}", hint="is the clock here right?"
        )


def _read_key(path: Path, ask: Callable[[], bytes] | None) -> Any:
    data, mode = read_file(path)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(
            f"others than its owner may read the private key {path}", hint=f"chmod 600 {path}"
        )
    load = sdk("hazmat.primitives.serialization").load_pem_private_key
    try:
        return load(data, password=None)
    except TypeError as error:  # so says cryptography that a passphrase is needed
        if ask is None:
            raise InputError(
                f"the key {path} has a passphrase, and nobody is there to ask",
                hint="run this in a terminal",
            ) from error
    except damage() as error:
        raise InputError(f"{path} is no private key as PEM", hint=_MAKE_ONE) from error
    try:
        return load(data, password=ask())
    except damage() as error:
        raise InputError(f"the passphrase of {path} is another one") from error


def _builder(name: str, issuer: Any, public: Any) -> CertificateBuilder:
    """With what all certificates have; the identifier of its key lets those it signs be found."""
    x509 = sdk("x509")
    builder: CertificateBuilder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    return builder


def _authority_identifier(certificate: Certificate) -> Any:
    x509 = sdk("x509")
    known = _extension(certificate, x509.SubjectKeyIdentifier)
    if known is None:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(certificate.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


def _extension(of: Certificate | CertificateRevocationList, kind: Any) -> Any:
    """None if it has none of this kind, or such that can't be read."""
    try:
        return of.extensions.get_extension_for_class(kind).value
    except (sdk("x509").ExtensionNotFound, *damage()):
        return None


def _hash_for(key: Any) -> Any:
    """None for a key that hashes by itself."""
    return None if is_ed25519(key.public_key()) else sdk("hazmat.primitives.hashes").SHA256()


def _usage(*names: str) -> Any:
    return sdk("x509").KeyUsage(**{usage: usage in names for usage in _USAGES})


def _named(name: str) -> Any:
    x509 = sdk("x509")
    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise InputError(f"can not write {path}: {error.strerror}") from error
