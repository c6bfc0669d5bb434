"""A release: what a device serves, by the digest of all that it is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edge import __version__
from edge.bundle import open_bundle
from edge.core.errors import InputError
from edge.core.manifest import Manifest
from edge.deploy.wheels import Wheelhouse
from edge.settings import Serve, load_settings

CHUNK_BYTES = 1 << 20
SETTINGS = "edge.toml"

Contents = Path | bytes


class Part(msgspec.Struct, frozen=True):
    """A file of a release, known on the device by its digest."""

    name: str
    sha256: str
    size_bytes: int


class ModelPart(msgspec.Struct, frozen=True):
    """A bundle; ``digest`` is that of its manifest, by which a running service knows it."""

    name: str
    version: str
    digest: str
    sha256: str
    size_bytes: int

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.version


class RuntimePart(msgspec.Struct, frozen=True):
    """The virtual environment that serves: an interpreter's version, and wheels for it.

    ``has_system_packages`` lets it see what the device's own package manager installed: TensorRT
    for Python comes with JetPack and from nowhere else.
    """

    python: str
    wheels: tuple[Part, ...]
    unpacked_bytes: int
    has_system_packages: bool = False

    @property
    def digest(self) -> str:
        return _digest((self.python, self.has_system_packages, sorted(self.wheels, key=_name)))


class Release(msgspec.Struct, frozen=True):
    """``http`` is where the service listens, as far as its settings say."""

    edge: str
    runtime: RuntimePart
    models: tuple[ModelPart, ...]
    settings: Part
    http: str

    @property
    def digest(self) -> str:
        return _digest(self)

    def parts(self) -> dict[str, int]:
        """Size by digest of all files that a device needs."""
        parts: list[Part | ModelPart] = [*self.runtime.wheels, *self.models, self.settings]
        return {part.sha256: part.size_bytes for part in parts}

    def document(self) -> bytes:
        """``release.json``, as the device reads it."""
        facts = {
            **msgspec.to_builtins(self),
            "digest": self.digest,
            "runtime": {**msgspec.to_builtins(self.runtime), "digest": self.runtime.digest},
        }
        return msgspec.json.format(msgspec.json.encode(facts), indent=1)


class Parcel(msgspec.Struct, frozen=True):
    """A release, where its parts are on this machine, and what the bundles say of themselves."""

    release: Release
    contents: Mapping[str, Contents]
    manifests: tuple[Manifest, ...]


def make_parcel(bundles: Sequence[Path], settings: Path | None, wheelhouse: Wheelhouse) -> Parcel:
    """Read all that goes to a device, and check it.

    Args:
        settings: The ``edge.toml`` to serve by; None for the defaults.
    Raises:
        BundleError: A bundle is damaged or missing.
        InputError: Two bundles are one model and version.
        SettingsError: The settings are not valid.
    """
    contents: dict[str, Contents] = {}
    models: dict[tuple[str, str], ModelPart] = {}
    manifests: list[Manifest] = []
    for path in bundles:
        part, manifest = _model(path)
        if part.key in models:
            raise InputError(f"{path} is {part.name} {part.version}, as another bundle is")
        models[part.key] = part
        contents[part.sha256] = path
        manifests.append(manifest)
    data = settings.read_bytes() if settings else b""
    part_of_settings = Part(SETTINGS, hashlib.sha256(data).hexdigest(), len(data))
    contents[part_of_settings.sha256] = data
    wheels = [_part(path) for path in wheelhouse.wheels]
    contents |= {part.sha256: path for part, path in zip(wheels, wheelhouse.wheels, strict=True)}
    release = Release(
        edge=__version__,
        runtime=RuntimePart(
            python=wheelhouse.target.python,
            wheels=tuple(wheels),
            unpacked_bytes=wheelhouse.unpacked_bytes,
            has_system_packages=wheelhouse.has_system_packages,
        ),
        models=tuple(models[key] for key in sorted(models)),
        settings=part_of_settings,
        # The environment of this machine is not the device's.
        http=(load_settings(settings, {}).serve if settings else Serve()).http,
    )
    return Parcel(release, contents, tuple(manifests))


def _model(path: Path) -> tuple[ModelPart, Manifest]:
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
        part = _part(path)
        return (
            ModelPart(manifest.name, manifest.version, bundle.digest, part.sha256, part.size_bytes),
            manifest,
        )


def _part(path: Path) -> Part:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
        size = stream.tell()
    return Part(path.name, digest.hexdigest(), size)


def _name(part: Part) -> str:
    return part.name


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()
