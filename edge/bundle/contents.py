"""What a manifest says a bundle must hold, and whether what it says makes sense."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from edge.core.errors import BundleError
from edge.core.manifest import SCHEMA, EntryPath, FileEntry, Manifest
from edge.core.tensor import TensorSpec

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
VARIANTS = "variants/"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_SIGNATURE_BYTES = 64 * 1024

_BITS = {"float": (16, 32, 64), "int": (8, 16, 32, 64), "uint": (8, 16, 32, 64)}
DTYPES = {f"{kind}{bits}" for kind in _BITS for bits in _BITS[kind]} | {
    *("bool", "bfloat16", "complex64", "complex128", "string")
}


class _Versioned(msgspec.Struct):
    schema: int


# Made at import, by one thread: msgspec crashes where two learn a type at once.
_decode_version = msgspec.json.Decoder(_Versioned).decode
_decode_manifest = msgspec.json.Decoder(Manifest).decode


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``: the same for equal manifests, readable by people."""
    compact = msgspec.json.encode(manifest, order="deterministic")
    return msgspec.json.format(compact, indent=2) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """Read and check ``manifest.json``.

    Raises:
        BundleError: It is of another schema, has unknown or wrong values, or contradicts itself.
    """
    try:
        schema = _decode_version(data).schema
        if schema != SCHEMA:
            raise BundleError(
                f"the manifest has schema {schema}, this edge reads {SCHEMA}",
                hint="upgrade edge here, or convert the model again with this version",
            )
        manifest = _decode_manifest(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not valid: {error}") from error
    _check(manifest)
    return manifest


def listed(manifest: Manifest) -> dict[str, FileEntry]:
    """Name in the bundle -> what the manifest says of that file."""
    entries = {entry.path: entry for entry in manifest.files}
    for variant in manifest.variants:
        for entry in variant.files:
            entries[variant_path(variant.id, entry.path)] = entry
    return entries


def variant_path(variant_id: str, path: str) -> str:
    return f"{VARIANTS}{variant_id}/{path}"


def in_order(names: Iterable[str]) -> list[str]:
    """The order of entries: the manifest first, then by name."""
    return sorted(names, key=lambda name: (name != MANIFEST, name))


def is_safe(name: str) -> bool:
    """Whether ``name`` stays within a folder on any system."""
    try:
        msgspec.convert(name, EntryPath)
    except msgspec.ValidationError:
        return False
    return True


def check_names(names: Iterable[str]) -> None:
    """Raise ``BundleError`` for an unsafe name, a double one, or a file that is also a folder."""
    seen: set[str] = set()
    folders: set[str] = set()
    for name in names:
        if not is_safe(name):
            raise BundleError(
                f"the entry name {name!r} is not safe",
                hint="relative, at most 8 folders, of letters, digits and . _ + -",
            )
        # Lower case: on some file systems, Model.bin and model.bin are one file.
        lower = name.lower()
        if lower in seen:
            raise BundleError(f"there are two entries named {name!r}")
        seen.add(lower)
        folders.update(lower[: match.start()] for match in re.finditer("/", lower))
    if clash := seen & folders:
        raise BundleError(f"{min(clash)!r} is both a file and a folder")


def _check(manifest: Manifest) -> None:
    ids = [variant.id for variant in manifest.variants]
    if not ids:
        raise BundleError("the manifest lists no variant")
    if len({variant_id.lower() for variant_id in ids}) != len(ids):
        raise BundleError(f"two variants have one id: {', '.join(ids)}")
    for variant in manifest.variants:
        for spec in (*variant.inputs, *variant.outputs):
            _check_tensor(variant.id, spec)
    _check_listing(manifest)
    _check_references(manifest)


def _check_tensor(variant_id: str, spec: TensorSpec) -> None:
    dims_hold = all(dim != "" if isinstance(dim, str) else dim >= 0 for dim in spec.shape)
    if not spec.name or spec.dtype not in DTYPES or not dims_hold:
        raise BundleError(
            f"variant {variant_id}: tensor {spec.name!r} can not be {spec.dtype} {spec.shape_text}"
        )


def _check_listing(manifest: Manifest) -> None:
    entries = listed(manifest)
    if len(entries) != len(manifest.files) + sum(len(v.files) for v in manifest.variants):
        raise BundleError("the manifest lists a file twice")
    for entry in manifest.files:
        if entry.path in (MANIFEST, SIGNATURE) or entry.path.startswith(VARIANTS):
            raise BundleError(f"the manifest lists {entry.path} outside of its place")
    check_names([MANIFEST, SIGNATURE, *entries])


def _check_references(manifest: Manifest) -> None:
    paths = {entry.path for entry in manifest.files}
    wanted = {path for golden in manifest.goldens for path in (golden.inputs, golden.expected)}
    wanted |= {name for name in (manifest.labels, manifest.reference) if name}
    if missing := sorted(wanted - paths):
        raise BundleError(f"the manifest refers to {', '.join(missing)}, which it does not list")
    outputs = {v.id: {spec.name for spec in v.outputs} for v in manifest.variants}
    for number, golden in enumerate(manifest.goldens):
        for variant_id, tolerances in golden.tolerances.items():
            if variant_id not in outputs:
                raise BundleError(f"golden {number} has tolerances for unknown {variant_id}")
            if unknown := sorted(tolerances.keys() - outputs[variant_id]):
                raise BundleError(
                    f"golden {number} has a tolerance for {', '.join(unknown)}, "
                    f"which variant {variant_id} does not put out"
                )
