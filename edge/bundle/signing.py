"""Who vouches for a bundle: an Ed25519 signature over its manifest, which has digests of the rest.

Keys are files that ``ssh-keygen -t ed25519`` or ``openssl genpkey -algorithm ed25519`` make, and a
key is known by the fingerprint that ``ssh-keygen -l`` prints.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from edge.core.errors import BundleError, InputError, SignatureError
from edge.core.lazy import require

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey as PublicKey

    from edge.settings import Trust

EXTRA = "sign"
MAX_KEY_BYTES = 16 * 1024
SUFFIXES = (".pub", ".pem")
_MAKE_ONE = "make one with: ssh-keygen -t ed25519 -N '' -f KEY"
_SSH_TYPE = b"ssh-ed25519"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``signature.json`` holds; ``signature`` is over the bytes of ``manifest.json``."""

    schema: Literal[1]
    algorithm: Literal["ed25519"]
    key: Annotated[str, msgspec.Meta(pattern=r"\ASHA256:[A-Za-z0-9+/]{43}\Z")]
    signature: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9+/]{86}==\Z")]


# Made at import, by one thread: msgspec crashes where two learn a type at once.
_decode = msgspec.json.Decoder(Signature).decode


def decode_signature(data: bytes) -> Signature:
    """Raises ``BundleError`` where this is no signature that this edge can read."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"signature.json is not valid: {error}") from error


class Signer:
    """A private key, and the fingerprint that it is known by."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.fingerprint = _fingerprint(key.public_key())

    def sign(self, manifest: bytes) -> bytes:
        """The bytes of ``signature.json``: Ed25519 gives the same ones for the same manifest."""
        signed = base64.b64encode(self._key.sign(manifest)).decode()
        signature = Signature(1, "ed25519", self.fingerprint, signed)
        return msgspec.json.format(msgspec.json.encode(signature), indent=2) + b"\n"


class TrustedKey(msgspec.Struct, frozen=True):
    """``name`` is the stem of the key's file."""

    name: str
    fingerprint: str
    public: PublicKey

    @property
    def title(self) -> str:
        return f"{self.name} ({self.fingerprint})"


class Keyring:
    """Decides whether a bundle may be used, by who signed it.

    Args:
        is_required: Whether a bundle that none of ``keys`` signed is refused.
    """

    def __init__(self, keys: Iterable[TrustedKey], *, is_required: bool = True) -> None:
        self._keys = {key.fingerprint: key for key in keys}
        self._is_required = is_required

    def check(self, manifest: bytes, signature: bytes | None) -> str:
        """Who of those that are trusted signed a manifest; empty if nobody did, and may.

        Raises:
            SignatureError: It is wrong, or lacking and required.
            BundleError: It can't be read.
        """
        if signature is None:
            self._permit("the bundle is not signed", "sign it: edge sign BUNDLE --key KEY")
            return ""
        claimed = decode_signature(signature)
        key = self._keys.get(claimed.key)
        if key is None:
            known = ", ".join(key.title for key in self._keys.values()) or "none"
            self._permit(
                f"the bundle is signed by {claimed.key}, which is not trusted here",
                f"trusted are: {known}",
            )
            return ""
        _verify(key, base64.b64decode(claimed.signature), manifest)
        return key.title

    def _permit(self, reason: str, hint: str) -> None:
        if self._is_required:
            raise SignatureError(reason, hint=hint)


def _verify(key: TrustedKey, signature: bytes, manifest: bytes) -> None:
    exceptions = require("cryptography.exceptions", extra=EXTRA)
    try:
        key.public.verify(signature, manifest)
    except exceptions.InvalidSignature as error:
        raise SignatureError(
            f"the signature by {key.title} does not fit the manifest",
            hint="the bundle was altered after it was signed; get it again from who built it",
        ) from error


def read_signer(path: Path) -> Signer:
    """Read a private key, in the form of OpenSSH or as PEM (PKCS #8), without a passphrase.

    Raises:
        InputError: It can't be read, is no such key, or others may read it too.
        MissingDependencyError: ``cryptography`` is not installed.
    """
    serialization = require("cryptography.hazmat.primitives.serialization", extra=EXTRA)
    data, mode = _read(path)
    is_openssh = b"BEGIN OPENSSH PRIVATE KEY" in data
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        key = load(data, password=None)
    except TypeError as error:  # so says cryptography that a passphrase is needed
        raise InputError(
            f"the private key {path} has a passphrase",
            hint=f"sign with a copy without one: ssh-keygen -p -N '' -f {path}",
        ) from error
    except _damage() as error:
        is_public = data.startswith(_SSH_TYPE) or b"PUBLIC KEY" in data
        what = "is a public key; the private one signs" if is_public else "is no private key"
        raise InputError(f"{path} {what}", hint=_MAKE_ONE) from error
    if not isinstance(key, _ed25519().Ed25519PrivateKey):
        raise InputError(f"{path} is a key, but not for Ed25519", hint=_MAKE_ONE)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(
            f"others than its owner may read the private key {path}", hint=f"chmod 600 {path}"
        )
    return Signer(key)


def keyring_of(trust: Trust, *, for_update: bool = False) -> Keyring | None:
    """Who is asked for by ``[trust]``: of served bundles, or of what an update brings.

    Raises:
        InputError: A key can't be used, or none is trusted and one has to be.
    """
    is_required = trust.require == "always" or (for_update and trust.require == "update")
    if not trust.keys and is_required:
        raise InputError(
            "an update has to be signed, and no key is trusted here",
            hint='name public keys in edge.toml there: keys in [trust], or require = "never"',
        )
    if not trust.keys:
        return None
    return Keyring(read_trusted(trust.keys), is_required=is_required)


def read_trusted(paths: Iterable[str | os.PathLike[str]]) -> list[TrustedKey]:
    """Read public keys, from files or from all ``*.pub`` and ``*.pem`` files of folders.

    Raises:
        InputError: One can't be read, is no Ed25519 public key, may be changed by anyone, or a
            folder has none.
        MissingDependencyError: ``cryptography`` is not installed.
    """
    return [_read_public(path) for path in _key_files(map(Path, paths))]


def _key_files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(inner for inner in path.iterdir() if inner.suffix in SUFFIXES)
        if not found:
            raise InputError(
                f"{path} holds no public key", hint=f"they end in {' or '.join(SUFFIXES)}"
            )
        yield from found


def _read_public(path: Path) -> TrustedKey:
    serialization = require("cryptography.hazmat.primitives.serialization", extra=EXTRA)
    data, mode = _read(path)
    if mode & stat.S_IWOTH:
        raise InputError(f"anyone may change the public key {path}", hint=f"chmod 644 {path}")
    is_pem = b"-----BEGIN" in data
    load = serialization.load_pem_public_key if is_pem else serialization.load_ssh_public_key
    try:
        public = load(data)
    except _damage() as error:
        is_private = b"PRIVATE KEY" in data
        what = "is a private key; it belongs to who signs" if is_private else "is no public key"
        raise InputError(f"{path} {what}", hint=f"ssh-keygen -y -f {path} > KEY.pub") from error
    if not isinstance(public, _ed25519().Ed25519PublicKey):
        raise InputError(f"{path} is a public key, but not for Ed25519", hint=_MAKE_ONE)
    return TrustedKey(path.stem, _fingerprint(public), public)


def _read(path: Path) -> tuple[bytes, int]:
    """What a key's file holds, and its mode."""
    try:
        with open(path, "rb") as stream:
            return stream.read(MAX_KEY_BYTES), os.fstat(stream.fileno()).st_mode
    except OSError as error:
        raise InputError(
            f"can not read the key {path}: {error.strerror}", hint=_MAKE_ONE
        ) from error


def _damage() -> tuple[type[Exception], ...]:
    """What ``cryptography`` raises on what is no key, or one of a kind that it does not know."""
    exceptions = require("cryptography.exceptions", extra=EXTRA)
    return (ValueError, exceptions.UnsupportedAlgorithm)


def _ed25519() -> Any:
    return require("cryptography.hazmat.primitives.asymmetric.ed25519", extra=EXTRA)


def _fingerprint(public: PublicKey) -> str:
    """As ``ssh-keygen -l`` prints it: SHA-256 of the key in the form of RFC 8709, section 4."""
    parts = (_SSH_TYPE, public.public_bytes_raw())
    blob = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
