"""X.509 as far as devices need it: what they ask for, and certificates as PEM."""

from __future__ import annotations

import base64
import datetime
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.errors import InputError
from edge.core.lazy import require

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MAX_PEM_BYTES = 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")  # also fit for a topic and an ACL
_ASYMMETRIC = "hazmat.primitives.asymmetric"


class Request(msgspec.Struct, frozen=True):
    """All that is believed of what a device asks for. ``key`` is the fingerprint of its key."""

    name: str
    key: str
    public: Any


def sdk(module: str) -> Any:
    """A module of ``cryptography``."""
    return require(f"cryptography.{module}", extra="sign")


def read_request(pem: str, hostname: str) -> Request:
    """What a device asks for: its key and its name; all else in a request is nothing to us.

    Raises:
        InputError: The request is not signed by its key, is for another name, or the key is weak.
    """
    x509 = sdk("x509")
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        public = request.public_key()
        names = request.subject.get_attributes_for_oid(x509.oid.NameOID.COMMON_NAME)
        is_signed = _is_strong(public) and request.is_signature_valid
    except damage() as error:
        raise InputError(f"what it sent is no request for a certificate: {error}") from error
    if not _is_strong(public):
        raise InputError(
            "its key is neither P-256 nor Ed25519",
            hint="without it, the device makes another one: rm /etc/edge/device.key",
        )
    if not is_signed:
        raise InputError("its request is not signed by its own key")
    name = str(names[0].value) if len(names) == 1 else ""
    if name != hostname:
        raise InputError(f"its request is for {name!r}, and its host name is {hostname!r}")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} can not be the name of a device", hint="letters, digits, -, _ and ."
        )
    return Request(name, fingerprint(public), public)


def read_certificates(path: Path) -> list[Certificate]:
    """One or more.

    Raises:
        InputError: There is none in the file.
    """
    data, _ = read_file(path)
    try:
        found: list[Certificate] = sdk("x509").load_pem_x509_certificates(data)
    except damage() as error:
        raise InputError(f"{path} holds no certificate as PEM") from error
    return found


def certificate_pem(certificate: Certificate) -> str:
    return certificate.public_bytes(sdk("hazmat.primitives.serialization").Encoding.PEM).decode()


def end_of(pem: str) -> str:
    """When a certificate ends; empty if it is none."""
    try:
        found = sdk("x509").load_pem_x509_certificate(pem.encode())
    except damage():
        return ""
    return utc_text(found.not_valid_after_utc)


def fingerprint(public: Any) -> str:
    """Of a key: SHA-256 of its SubjectPublicKeyInfo, written as OpenSSH writes those of its own."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(spki(public)).digest()).decode().rstrip("=")


def spki(public: Any) -> bytes:
    """A public key as SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7)."""
    serialization = sdk("hazmat.primitives.serialization")
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(public.public_bytes(serialization.Encoding.DER, form))


def is_ed25519(public: Any) -> bool:
    return isinstance(public, sdk(f"{_ASYMMETRIC}.ed25519").Ed25519PublicKey)


def utc_text(when: datetime.datetime) -> str:
    """``2027-11-21T15:04:05Z``"""
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


def read_file(path: Path) -> tuple[bytes, int]:
    """What a file holds, and its mode.

    Raises:
        InputError: It can't be read, or is longer than such a file would be.
    """
    try:
        with open(path, "rb") as stream:
            data, mode = stream.read(MAX_PEM_BYTES + 1), os.fstat(stream.fileno()).st_mode
    except OSError as error:
        raise InputError(f"can not read {path}: {error.strerror}") from error
    if len(data) > MAX_PEM_BYTES:
        raise InputError(f"{path} is too long for a file of certificates or keys")
    return data, mode


def damage() -> tuple[type[Exception], ...]:
    """What ``cryptography`` raises on what is damaged, or of a kind that it does not know."""
    return (ValueError, TypeError, sdk("exceptions").UnsupportedAlgorithm)


def _is_strong(public: Any) -> bool:
    ec = sdk(f"{_ASYMMETRIC}.ec")
    is_p256 = isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == "secp256r1"
    return is_p256 or is_ed25519(public)
