"""Opens a bundle: nothing in it is used before its digest was checked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from edge.bundle import archive, contents, store, tensors
from edge.core.cache import default_cache
from edge.core.errors import BundleError, InputError, NotFoundError
from edge.core.manifest import Golden, Manifest, Variant

if TYPE_CHECKING:
    from edge.bundle.signing import Keyring
    from edge.core.tensor import Array

CHUNK_BYTES = 1024 * 1024
MAX_LABELS_BYTES = 16 * 1024 * 1024
_AGAIN = "the file was damaged or altered; copy it again from where it was built"


class _Item(msgspec.Struct, frozen=True):
    """Where an entry's contents lie, and what they must be."""

    located: archive.Located
    sha256: str


class Bundle:
    """An open bundle, made by ``open_bundle``. Its methods may be called from several threads.

    ``digest`` is the SHA-256 of the manifest, and so stands for all that the bundle holds.
    ``has_signature`` says that there is one, ``signed_by`` whose it is, if it was checked.
    """

    def __init__(
        self,
        path: Path,
        stream: BinaryIO,
        manifest: Manifest,
        items: dict[str, _Item],
        signed_by: str = "",
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.signed_by = signed_by
        self.digest = items[contents.MANIFEST].sha256
        self.has_signature = contents.SIGNATURE in items
        self._stream = stream
        self._items = items

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Class names by index; empty when the bundle has none."""
        name = self.manifest.labels
        if not name:
            return ()
        if self._items[name].located.entry.size_bytes > MAX_LABELS_BYTES:
            raise BundleError(f"{self.path}: {name} is larger than {MAX_LABELS_BYTES:,} bytes")
        try:
            text = self.read(name).decode()
        except UnicodeDecodeError as error:
            raise BundleError(f"{self.path}: {name} is not UTF-8: {error}") from error
        return tuple(line.rstrip("\r") for line in text.removesuffix("\n").split("\n"))

    def names(self) -> list[str]:
        """All entries, in their order."""
        return list(self._items)

    def read(self, name: str) -> bytes:
        """The contents of an entry, checked against its digest once more.

        Raises:
            NotFoundError: There is no such entry.
            BundleError: The file changed since it was opened.
        """
        if name not in self._items:
            raise NotFoundError(f"{self.path} has no entry {name!r}")
        return b"".join(self.chunks(name))

    def entry(self, name: str) -> archive.Entry:
        """Size and checksum of an entry that there is."""
        return self._items[name].located.entry

    def golden(self, golden: Golden) -> tuple[dict[str, Array], dict[str, Array]]:
        """Inputs and expected outputs by tensor name, owned by the caller.

        Raises:
            BundleError: They can't be read, or an output that has a tolerance is not expected.
        """
        inputs, expected = self._tensors(golden.inputs), self._tensors(golden.expected)
        judged = {output for outputs in golden.tolerances.values() for output in outputs}
        if missing := sorted(judged - expected.keys()):
            raise BundleError(f"{self.path}: {golden.expected} lacks {', '.join(missing)}")
        return inputs, expected

    def variant(self, variant_id: str) -> Variant:
        for variant in self.manifest.variants:
            if variant.id == variant_id:
                return variant
        known = ", ".join(variant.id for variant in self.manifest.variants)
        raise NotFoundError(f"{self.path} has no variant {variant_id!r}", hint=f"it has {known}")

    def extract_variant(self, variant_id: str, *, cache: Path | None = None) -> Path:
        """The folder with the files of a variant, extracted at the first call on this machine.

        Args:
            cache: Where extracted variants are kept; None is ``edge`` in ``$XDG_CACHE_HOME``.
        Raises:
            NotFoundError: There is no such variant.
            UnavailableError: The cache can't be written.
        """
        variant = self.variant(variant_id)

        def copy(path: str, target: BinaryIO) -> None:
            for chunk in self.chunks(contents.variant_path(variant_id, path)):
                target.write(chunk)

        return store.keep(variant.files, copy, cache or default_cache())

    def verify(self) -> None:
        """Raise ``BundleError`` when the contents of any entry differ from their digest."""
        for name in self._items:
            for _ in self.chunks(name):
                pass

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._stream.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def chunks(self, name: str) -> Iterator[bytes]:
        """The contents piece by piece; raises after the last one when the digest differs."""
        item = self._items[name]
        offset, end = item.located.offset, item.located.offset + item.located.entry.size_bytes
        digest = hashlib.sha256()
        while offset < end:
            chunk = archive.read_exactly(
                self._stream.fileno(), min(CHUNK_BYTES, end - offset), offset
            )
            digest.update(chunk)
            offset += len(chunk)
            yield chunk
        if digest.hexdigest() != item.sha256:
            raise BundleError(f"{name} differs from its digest in the manifest", hint=_AGAIN)

    def _tensors(self, name: str) -> dict[str, Array]:
        data = self.read(name)
        try:
            # A bundle's tensors lie uncompressed: they never take more than the entry does.
            return tensors.read_tensors(data, limit_bytes=len(data))
        except InputError as error:
            raise BundleError(f"{self.path}: {name}: {error}") from error


def open_bundle(path: str | os.PathLike[str], trust: Keyring | None = None) -> Bundle:
    """Open a bundle and check its structure and the digest of everything in it.

    Args:
        trust: Whose signature is asked for, before anything of the manifest is read; None
            checks none.
    Raises:
        BundleError: The file can't be read, is no bundle, is damaged, altered or unsafe, or
            ``trust`` refuses who signed it.
    """
    path = Path(path)
    if not path.is_file():
        reason = "it is no file" if path.exists() else "there is no such file"
        raise BundleError(f"can not open bundle {path}: {reason}")
    with contextlib.ExitStack() as on_error:
        try:
            stream = on_error.enter_context(open(path, "rb", buffering=0))
            bundle = _load(path, stream, trust)
            bundle.verify()
        except OSError as error:
            raise BundleError(f"can not read bundle {path}: {error.strerror}") from error
        except BundleError as error:
            raise type(error)(f"{path}: {error}", hint=error.hint) from error
        on_error.pop_all()
        return bundle


def _load(path: Path, stream: BinaryIO, trust: Keyring | None) -> Bundle:
    located = archive.read_directory(stream.fileno())
    contents.check_names(item.entry.name for item in located)
    found = {item.entry.name: item for item in located}
    if list(found) != contents.in_order(found) or contents.MANIFEST not in found:
        raise BundleError(f"{contents.MANIFEST} is not the first entry of sorted ones")
    data = _read_unlisted(stream, found[contents.MANIFEST], contents.MAX_MANIFEST_BYTES)
    digests = {contents.MANIFEST: hashlib.sha256(data).hexdigest()}
    signature = None
    if contents.SIGNATURE in found:
        signature = _read_unlisted(stream, found[contents.SIGNATURE], contents.MAX_SIGNATURE_BYTES)
        digests[contents.SIGNATURE] = hashlib.sha256(signature).hexdigest()
    signed_by = trust.check(data, signature) if trust is not None else ""
    manifest = contents.decode_manifest(data)
    entries = contents.listed(manifest)
    if missing := sorted(entries.keys() - found.keys()):
        raise BundleError(f"{', '.join(missing)} is missing", hint=_AGAIN)
    if unlisted := sorted(found.keys() - entries.keys() - digests.keys()):
        raise BundleError(f"{', '.join(unlisted)} is not listed in the manifest", hint=_AGAIN)
    for name, entry in entries.items():
        if found[name].entry.size_bytes != entry.size_bytes:
            raise BundleError(f"{name} has not the size that the manifest gives", hint=_AGAIN)
        digests[name] = entry.sha256
    items = {name: _Item(found[name], digests[name]) for name in found}
    return Bundle(path, stream, manifest, items, signed_by)


def _read_unlisted(stream: BinaryIO, item: archive.Located, limit: int) -> bytes:
    """Read an entry that no digest stands for: its checksum in the directory does."""
    entry = item.entry
    if entry.size_bytes > limit:
        raise BundleError(f"{entry.name} takes {entry.size_bytes:,} bytes, at most {limit:,} may")
    data = archive.read_exactly(stream.fileno(), entry.size_bytes, item.offset)
    if zlib.crc32(data) != entry.crc32:
        raise BundleError(f"{entry.name} differs from its checksum", hint=_AGAIN)
    return data
