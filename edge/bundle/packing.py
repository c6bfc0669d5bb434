"""Writes and signs bundles: the same parts, and the same key, give the same bytes."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from edge.bundle import archive, contents
from edge.bundle.opening import Bundle, open_bundle
from edge.core.durable import replacing
from edge.core.errors import BundleError, InputError
from edge.core.manifest import FileEntry, Manifest, Variant

if TYPE_CHECKING:
    from edge.bundle.signing import Signer

CHUNK_BYTES = 1024 * 1024


class _Part(msgspec.Struct, frozen=True):
    """A file of the folder, as it was when it was first read."""

    path: Path
    sha256: str
    entry: archive.Entry

    def listed_as(self, path: str) -> FileEntry:
        return FileEntry(path=path, sha256=self.sha256, size_bytes=self.entry.size_bytes)


def pack(manifest: Manifest, folder: Path, output: Path) -> Path:
    """Write the bundle ``output``; on any error, what was there before stays.

    Args:
        manifest: Digests and sizes are filled in here. A variant may list its files to give
            their order (the engine opens the first one); otherwise they come sorted.
        folder: Laid out as the bundle, without ``manifest.json``.
    Raises:
        BundleError: A file belongs nowhere or is missing, or the manifest is not valid.
        InputError: The folder can't be read or the bundle can't be written.
    """
    try:
        parts = {name: _measure(path, name) for name, path in _walk(folder)}
        data = contents.encode_manifest(_fill(manifest, parts))
        _check(contents.decode_manifest(data), data, parts)
        with replacing(output) as stream:
            _write(stream, data, parts)
    except OSError as error:
        place = error.filename or output
        raise InputError(f"can not write {output}: {place}: {error.strerror}") from error
    return output


def sign(path: Path, signer: Signer, output: Path | None = None) -> Path:
    """Write a bundle anew with a signature, in place of the one that it may have.

    Args:
        output: None for the same file; on any error, what was there before stays.
    Raises:
        BundleError: It can't be read, is damaged or altered.
        InputError: It can't be written.
    """
    output = output or path
    with open_bundle(path) as bundle:
        try:
            with replacing(output) as stream:
                _write_signed(stream, bundle, signer.sign(bundle.read(contents.MANIFEST)))
        except OSError as error:
            raise InputError(f"can not write {output}: {error.strerror}") from error
    return output


def _write_signed(stream: BinaryIO, bundle: Bundle, signature: bytes) -> None:
    signed = archive.Entry(contents.SIGNATURE, len(signature), zlib.crc32(signature))
    entries = []
    for name in contents.in_order({*bundle.names(), contents.SIGNATURE}):
        is_signature = name == contents.SIGNATURE
        entries.append(signed if is_signature else bundle.entry(name))
        stream.write(archive.local_header(entries[-1]))
        for chunk in [signature] if is_signature else bundle.chunks(name):
            stream.write(chunk)
    stream.write(archive.directory(entries))


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for root, folders, files in os.walk(folder, onerror=_raise):
        for name in (*files, *folders):
            path = Path(root, name)
            inside = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BundleError(f"{inside} is no plain file; a bundle holds no links")
            if path.is_file():
                yield inside, path


def _raise(error: OSError) -> None:
    raise error


def _measure(path: Path, name: str) -> _Part:
    contents.check_names([name])
    digest, crc32, size = hashlib.sha256(), 0, 0
    for chunk in _chunks(path):
        digest.update(chunk)
        crc32 = zlib.crc32(chunk, crc32)
        size += len(chunk)
    return _Part(path, digest.hexdigest(), archive.Entry(name, size, crc32))


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _fill(manifest: Manifest, parts: dict[str, _Part]) -> Manifest:
    """Put what was measured into the manifest."""
    rest = [name for name in sorted(parts) if not name.startswith(contents.VARIANTS)]
    return msgspec.structs.replace(
        manifest,
        variants=tuple(_fill_variant(variant, parts) for variant in manifest.variants),
        files=tuple(parts[name].listed_as(name) for name in rest),
    )


def _fill_variant(variant: Variant, parts: dict[str, _Part]) -> Variant:
    prefix = contents.variant_path(variant.id, "")
    found = sorted(name[len(prefix) :] for name in parts if name.startswith(prefix))
    order = [entry.path for entry in variant.files] or found
    if sorted(order) != found:
        raise BundleError(f"variant {variant.id} lists {order}, its folder holds {found}")
    files = tuple(parts[prefix + path].listed_as(path) for path in order)
    return msgspec.structs.replace(variant, files=files)


def _check(manifest: Manifest, data: bytes, parts: dict[str, _Part]) -> None:
    """Every file must have a place, and the result must be one that opens."""
    if len(data) > contents.MAX_MANIFEST_BYTES or len(parts) + 2 > archive.MAX_ENTRIES:
        raise BundleError(f"too large: a manifest of {len(data):,} bytes, {len(parts):,} files")
    placed = {path for golden in manifest.goldens for path in (golden.inputs, golden.expected)}
    placed |= {contents.variant_path(v.id, f.path) for v in manifest.variants for f in v.files}
    strays = sorted(
        name
        for name in parts.keys() - placed - {manifest.labels, manifest.reference}
        if not name.startswith("report/")
    )
    if strays:
        raise BundleError(
            f"no place in the bundle for {', '.join(strays)}",
            hint="a folder in variants/ is named as a variant; goldens and labels are referred to",
        )


def _write(stream: BinaryIO, manifest: bytes, parts: dict[str, _Part]) -> None:
    first = archive.Entry(contents.MANIFEST, len(manifest), zlib.crc32(manifest))
    stream.write(archive.local_header(first))
    stream.write(manifest)
    entries = [first]
    for name in contents.in_order(parts):
        part = parts[name]
        entries.append(part.entry)
        stream.write(archive.local_header(part.entry))
        crc32 = 0
        for chunk in _chunks(part.path):
            crc32 = zlib.crc32(chunk, crc32)
            stream.write(chunk)
        if crc32 != part.entry.crc32:
            raise BundleError(f"{name} changed while it was packed")
    stream.write(archive.directory(entries))
