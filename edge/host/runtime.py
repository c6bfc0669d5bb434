"""Many models on one machine: found in bundles and folders, loaded on first use."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edge.bundle import Bundle, open_bundle
from edge.core.contracts import Placement
from edge.core.errors import EdgeError, InputError, NotFoundError, UnavailableError
from edge.host.choice import Fallback
from edge.host.model import Model, load_bundle
from edge.host.statistics import Snapshot

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds

log = logging.getLogger(__name__)

State = Literal["staged", "loading", "ready", "failed"]


class ModelStatus(msgspec.Struct, frozen=True):
    """One model of a runtime; engine, variant and placement are empty until it is ready."""

    name: str
    version: str
    state: State
    reason: str = ""
    engine: str = ""
    variant: str = ""
    precision: str = ""
    choice: str = ""
    is_fallback: bool = False
    placement: Placement | None = None
    statistics: Snapshot | None = None


class _Slot:
    """A model that is known, and loaded once however many ask for it at the same time."""

    def __init__(self, name: str, version: str, bundle: Bundle | None, reason: str = "") -> None:
        self.name = name
        self.version = version
        self.bundle = bundle
        self.reason = reason
        self.model: Model | None = None
        self.state: State = "staged" if bundle else "failed"
        self.lock = threading.Lock()

    def status(self) -> ModelStatus:
        model = self.model
        if model is None:
            return ModelStatus(self.name, self.version, self.state, self.reason)
        return ModelStatus(
            self.name,
            self.version,
            self.state,
            engine=model.variant.engine,
            variant=model.variant.id,
            precision=model.placement.precision,
            choice=model.choice,
            is_fallback=model.is_fallback,
            placement=model.placement,
            statistics=model.statistics.snapshot(),
        )


class Runtime:
    """Serves bundles by name and version. Any thread may call any method.

    A bundle that is named must open; one that lies in a folder may be broken: it is then listed
    as failed, and the others are served.
    """

    def __init__(
        self,
        *sources: str | os.PathLike[str],
        engine: str | None = None,
        options: Mapping[str, Any] | None = None,
        fallback: Fallback = "warn",
    ) -> None:
        """Find the bundles, and load none yet.

        Args:
            sources: Bundles, or folders of ``*.edge`` files.
            engine: Only variants of this engine.
            options: For the engine, as in ``load``.
            fallback: As in ``load``.
        Raises:
            BundleError: A bundle that was named is damaged or none.
            InputError: A source does not exist, or two bundles have one name and version.
        """
        self._engine = engine
        self._options = options
        self._fallback: Fallback = fallback
        self._slots: dict[str, dict[str, _Slot]] = {}
        self._is_closed = False
        try:
            for source in sources:
                for slot in _find(Path(source)):
                    self._add(slot, Path(source))
        except BaseException:
            self.close()
            raise

    def names(self) -> list[str]:
        """Names of all models, sorted."""
        return sorted(self._slots)

    def versions(self, name: str) -> list[str]:
        """Versions of a model, oldest first: ``1.9`` comes before ``1.10``."""
        return sorted(self._versions(name), key=_natural)

    def model(self, name: str, version: str | None = None) -> Model:
        """The model, loaded if it is not yet; the newest version unless one is named.

        Raises:
            NotFoundError: There is no such model or version.
            UnavailableError: It can't be loaded here; the message says why.
        """
        slot = self._slot(name, version)
        return slot.model or self._load(slot)

    def infer(self, name: str, feeds: Feeds, version: str | None = None) -> dict[str, Array]:
        """``Model.infer`` by name."""
        return self.model(name, version).infer(feeds)

    def load_all(self) -> None:
        """Load every model; those that fail are logged and listed as failed."""
        for slot in self._all_slots():
            try:
                self.model(slot.name, slot.version)
            except EdgeError as error:
                log.error("%s %s: %s", slot.name, slot.version, error)

    def status(self) -> list[ModelStatus]:
        """All models and versions, loaded or not."""
        return [slot.status() for slot in self._all_slots()]

    @property
    def is_ready(self) -> bool:
        """Whether no model is still to be loaded, and at least one is ready, or there is none."""
        states = [slot.state for slot in self._all_slots()]
        return not states or ("ready" in states and set(states) <= {"ready", "failed"})

    def close(self) -> None:
        """Close all models; a second call does nothing."""
        self._is_closed = True
        for slot in self._all_slots():
            with slot.lock:
                if slot.model is not None:
                    slot.model.close()
                elif slot.bundle is not None:
                    slot.bundle.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all_slots(self) -> list[_Slot]:
        return [
            self._slots[name][version] for name in self.names() for version in self.versions(name)
        ]

    def _versions(self, name: str) -> dict[str, _Slot]:
        versions = self._slots.get(name)
        if versions is None:
            raise NotFoundError(
                f"no model named {name!r}", hint=f"there are: {', '.join(self.names()) or 'none'}"
            )
        return versions

    def _slot(self, name: str, version: str | None) -> _Slot:
        versions = self._versions(name)
        slot = versions.get(version or self.versions(name)[-1])
        if slot is None:
            raise NotFoundError(
                f"{name} has no version {version!r}",
                hint=f"there are: {', '.join(self.versions(name))}",
            )
        return slot

    def _add(self, slot: _Slot, source: Path) -> None:
        versions = self._slots.setdefault(slot.name, {})
        if slot.version in versions:
            if slot.bundle is not None:
                slot.bundle.close()
            raise InputError(
                f"{source}: a second bundle claims to be {slot.name} {slot.version}",
                hint="convert one of them again with another --name or --version",
            )
        versions[slot.version] = slot

    def _load(self, slot: _Slot) -> Model:
        with slot.lock:
            if slot.model is not None:
                return slot.model
            if self._is_closed:
                raise UnavailableError("the runtime is closed")
            if slot.bundle is None or slot.state == "failed":
                raise UnavailableError(f"{slot.name} {slot.version} failed: {slot.reason}")
            slot.state = "loading"
            try:
                slot.model = load_bundle(
                    slot.bundle,
                    engine=self._engine,
                    options=self._options,
                    fallback=self._fallback,
                )
            except BaseException as error:
                slot.state, slot.reason = "failed", str(error)
                raise
            slot.state = "ready"
            return slot.model


def _find(source: Path) -> Iterator[_Slot]:
    if source.is_dir():
        for path in sorted(source.glob("*.edge")):
            try:
                yield _open(path)
            except EdgeError as error:
                log.error("%s is left out: %s", path, error)
                yield _Slot(path.stem, "?", None, str(error))
    elif source.exists():
        yield _open(source)
    else:
        raise InputError(f"no bundle or folder at {source}")


def _open(path: Path) -> _Slot:
    bundle = open_bundle(path)
    return _Slot(bundle.manifest.name, bundle.manifest.version, bundle)


def _natural(version: str) -> list[tuple[int, str]]:
    """Digits compare as numbers, the rest as text."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", version)
    ]
