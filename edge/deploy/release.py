"""A release: what a device serves, by the digest of all that it is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edge import __version__
from edge.bundle import open_bundle
from edge.bundle.signing import Keyring
from edge.core.errors import InputError, SettingsError
from edge.core.manifest import Manifest
from edge.deploy.wheels import Wheelhouse
from edge.settings import Settings, load_settings

CHUNK_BYTES = 1 << 20
SETTINGS_FILE = "edge.toml"

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
        wheels = sorted(self.wheels, key=lambda part: part.name)
        return _digest((self.python, self.has_system_packages, wheels))


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


class LocalBundle(msgspec.Struct, frozen=True):
    """A bundle on this machine, opened and checked."""

    path: Path
    part: ModelPart
    manifest: Manifest


class ServiceSettings(msgspec.Struct, frozen=True):
    """What a service is started with; ``contents`` is None where the device has it already."""

    part: Part
    http: str
    contents: bytes | None
    settings: Settings


class Parcel(msgspec.Struct, frozen=True):
    """A release, where its parts are on this machine, and what the bundles say of themselves."""

    release: Release
    contents: Mapping[str, Contents]
    manifests: tuple[Manifest, ...]
    settings: Settings


def read_bundles(paths: Sequence[Path], trust: Keyring | None = None) -> tuple[LocalBundle, ...]:
    """Open and check all bundles of a release.

    Raises:
        BundleError: One is damaged or missing, or not signed as ``trust`` asks.
        InputError: Two are one model and version.
    """
    found: dict[str, LocalBundle] = {}
    for path in paths:
        with open_bundle(path, trust) as bundle:
            manifest, size = bundle.manifest, path.stat().st_size
            part = ModelPart(manifest.name, manifest.version, bundle.digest, digest_of(path), size)
        if part.name in found:
            raise InputError(
                f"{path} and {found[part.name].path} are both {part.name}",
                hint="give one version of each model; the device keeps the one before by itself",
            )
        found[part.name] = LocalBundle(path, part, manifest)
    return tuple(found[name] for name in sorted(found))


def read_settings(path: Path | None) -> ServiceSettings:
    """The ``edge.toml`` to serve by; None for the defaults.

    Raises:
        SettingsError: It is not valid, or leaves open where the service listens.
    """
    # Not by the environment of this machine: it is not the device's.
    settings = load_settings(path, {}) if path else Settings()
    contents = path.read_bytes() if path else b""
    if settings.serve.http.endswith(":0"):
        raise SettingsError(
            f"{path}: [serve] http = {settings.serve.http!r} takes any free port",
            hint="name one: nobody would know where the device serves",
        )
    part = Part(SETTINGS_FILE, digest_of(contents), len(contents))
    return ServiceSettings(part, settings.serve.http, contents, settings)


def make_parcel(
    bundles: Sequence[LocalBundle], settings: ServiceSettings, wheelhouse: Wheelhouse
) -> Parcel:
    """Put together what goes to one kind of device."""
    wheels = [Part(path.name, digest_of(path), path.stat().st_size) for path in wheelhouse.wheels]
    contents: dict[str, Contents] = {bundle.part.sha256: bundle.path for bundle in bundles}
    contents |= {part.sha256: path for part, path in zip(wheels, wheelhouse.wheels, strict=True)}
    if settings.contents is not None:
        contents[settings.part.sha256] = settings.contents
    runtime = RuntimePart(
        python=wheelhouse.target.python,
        wheels=tuple(wheels),
        unpacked_bytes=wheelhouse.unpacked_bytes,
        has_system_packages=wheelhouse.has_system_packages,
    )
    release = Release(
        edge=__version__,
        runtime=runtime,
        models=tuple(bundle.part for bundle in bundles),
        settings=settings.part,
        http=settings.http,
    )
    manifests = tuple(bundle.manifest for bundle in bundles)
    return Parcel(release, contents, manifests, settings.settings)


def digest_of(contents: Contents) -> str:
    if isinstance(contents, bytes):
        return hashlib.sha256(contents).hexdigest()
    digest = hashlib.sha256()
    with open(contents, "rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def size_of(contents: Contents) -> int:
    return len(contents) if isinstance(contents, bytes) else contents.stat().st_size


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()
