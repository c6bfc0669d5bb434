"""Many bundles behind one door: found by name and version, loaded when first used."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.bundle import open_bundle
from edge.core.errors import BundleError, EdgeError, InputError, NotFoundError, UnavailableError
from edge.host.choice import Fallback, Wish
from edge.host.fairness import FairShare
from edge.host.governor import Governor, work_of
from edge.host.residency import MemoryUse, NoRoomError, Residency, budget_bytes
from edge.host.slot import ModelStatus, Slot, Terms

if TYPE_CHECKING:
    from edge.core.pipelines import PipelineSpec
    from edge.core.tensor import Array, Feeds
    from edge.host.governor import Strain
    from edge.host.model import Model
    from edge.host.pipelines import Pipeline, PipelineStatus
    from edge.settings import ModelSettings, Power

log = logging.getLogger(__name__)

SUFFIX = ".edge"


class Runtime:
    """Runs the models of bundles and of folders of ``*.edge``; any thread may call it.

    A damaged bundle in a folder shows as failed in ``status`` and leaves the others alone.

    Args:
        models: How requests for a model are run, by its name, where not by the defaults.
        concurrency: How many batches, of whatever models, run at the same time on the models' own
            threads, in fair turns; 0 for any number.
        power: What gives way when the device throttles or draws more than it may; None to let it.
        memory: What all loaded models may hold together, in bytes or as "2GiB"; None for this
            machine's less what its system needs, 0 for any number. Who was not used for longest
            is unloaded first, and comes back with its next request.
        idle_s: Unload what was not used for so long; 0 for never.
        pipelines: Models that work together, by a name that no model has.
    Raises:
        BundleError: A bundle that was named is damaged or missing.
        InputError: A folder holds no bundle, or two bundles claim one name and version.
        SettingsError: A pipeline makes no sense with the models that there are.
    """

    def __init__(
        self,
        *sources: str | os.PathLike[str],
        engine: str | None = None,
        options: Mapping[str, Any] | None = None,
        fallback: Fallback = "warn",
        models: Mapping[str, ModelSettings] | None = None,
        concurrency: int = 0,
        power: Power | None = None,
        pipelines: Mapping[str, PipelineSpec] | None = None,
        memory: int | str | None = None,
        idle_s: float = 0.0,
    ) -> None:
        self._is_closed = False
        self._slots: list[Slot] = []
        self._governor: Governor | None = None
        is_governed = power is not None and power.policy != "off"
        self._pipelines: dict[str, Pipeline] = {}
        self._residency = Residency(budget_bytes(memory), idle_s)
        self._terms = Terms(
            Wish("", engine or "", dict(options or {}), fallback),
            dict(models or {}),
            self._residency,
            FairShare(concurrency) if concurrency or is_governed else None,
        )
        try:
            for slot in _scan(sources, self._terms):
                self._add(slot)
            self._pipelines = self._plan_pipelines(pipelines or {})
            if power is not None and self._terms.fair is not None and is_governed:
                self._governor = Governor(power, self._terms.fair, lambda: work_of(self.status()))
                self._governor.start()
        except BaseException:
            self.close()
            raise
        for name in self._terms.settings.keys() - self.names():
            log.warning("there are settings for %r, but no model of that name", name)

    def names(self) -> list[str]:
        """Names of all models, sorted; one with several versions stands once."""
        return sorted({slot.name for slot in self._slots})

    def versions(self, name: str) -> list[str]:
        """Versions of a model, oldest first."""
        return [slot.version for slot in self._find(name)]

    def model(self, name: str, version: str | None = None) -> Model:
        """The model, loaded at the first call; its newest version unless one is named.

        Where an engine has to be built first, another variant serves if ``fallback`` and the
        bundle allow it, and gives way to the built one between two requests; else this waits.

        Raises:
            NotFoundError: There is no model of that name and version.
            UnavailableError: The runtime is closed, or the model failed to load before.
            EdgeError: It fails to load now.
        """
        slot = self._slot(name, version)
        if self._is_closed:
            raise UnavailableError("the runtime is closed")
        return slot.model()

    def infer(self, name: str, feeds: Feeds, version: str | None = None) -> dict[str, Array]:
        """Run one batch on the caller's thread, as ``Model.infer`` does."""
        return self.model(name, version).infer(feeds)

    def pipeline(self, name: str) -> Pipeline:
        """A pipeline; its models are loaded when it first needs them.

        Raises:
            NotFoundError: There is none of that name.
        """
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            raise NotFoundError(
                f"there is no pipeline named {name!r}",
                hint=f"there are: {', '.join(self._pipelines) or 'none'}",
            )
        return pipeline

    def pipeline_names(self) -> list[str]:
        return list(self._pipelines)

    def pipeline_status(self) -> list[PipelineStatus]:
        """One entry for each pipeline, in the order in which they are declared."""
        models = self.status() if self._pipelines else []
        return [pipeline.status(models) for pipeline in self._pipelines.values()]

    def load_all(self) -> None:
        """Load models while there is room, those that are pinned first; the others wait for use.

        Those that fail are logged, and say why in ``status``. Engines that have to be built are,
        in the background, one after the other.
        """
        for slot in sorted(self._slots, key=lambda slot: not slot.is_pinned):
            try:
                slot.start(may_evict=False)
            except NoRoomError as error:
                log.info("%s %s is loaded when it is used: %s", slot.name, slot.version, error)
            except EdgeError as error:
                log.error("%s %s: %s", slot.name, slot.version, error)

    def load(self, name: str, version: str | None = None) -> None:
        """Load a model now, also if it was unloaded or failed before.

        Raises:
            NotFoundError: There is no model of that name and version.
            EdgeError: It fails to load.
        """
        self._slot(name, version).load()

    def unload(self, name: str, version: str | None = None) -> None:
        """Give a model's memory back after its last request; it answers nothing until ``load``.

        Args:
            version: None for all.
        Raises:
            NotFoundError: There is no model of that name and version.
        """
        for slot in [self._slot(name, version)] if version else self._find(name):
            slot.unload()

    def status(self) -> list[ModelStatus]:
        """One entry for each version of each model, by name, oldest first."""
        return [slot.status() for slot in self._slots]

    def status_of(self, name: str, version: str | None = None) -> ModelStatus:
        """What is known of the model that ``model`` would give.

        Raises:
            NotFoundError: There is no model of that name and version.
        """
        return self._slot(name, version).status()

    @property
    def strain(self) -> Strain | None:
        """How the device bears its work, and what is held back for it; None if nobody looks."""
        return self._governor.strain if self._governor is not None else None

    @property
    def is_ready(self) -> bool:
        """Whether no model is still to be loaded, and one answers, if need be after loading."""
        states = {slot.state for slot in self._slots}
        answering = {"ready", "idle"}
        settled = states <= {*answering, "failed"}
        return not self._is_closed and settled and bool(not states or states & answering)

    @property
    def memory(self) -> MemoryUse:
        """What models may hold, and what they hold."""
        return self._residency.use

    @property
    def is_building(self) -> bool:
        """Whether an engine is in the making, which ``close`` does not wait for."""
        return any(slot.is_building for slot in self._slots)

    def close(self) -> None:
        """Close all models; a second call does nothing."""
        for pipeline in self._pipelines.values():
            pipeline.close()
        self._is_closed = True
        if self._governor is not None:
            self._governor.close()
        self._residency.close()
        for slot in self._slots:
            slot.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _plan_pipelines(self, specs: Mapping[str, PipelineSpec]) -> dict[str, Pipeline]:
        if not specs:
            return {}
        from edge.host.pipelines import make_pipelines

        manifests = {slot.name: slot.manifest for slot in self._slots}
        labels = {slot.name: slot.labels for slot in self._slots}
        return make_pipelines(specs, manifests, labels, self.model)

    def _find(self, name: str) -> list[Slot]:
        slots = [slot for slot in self._slots if slot.name == name]
        if not slots:
            has = ", ".join(self.names()) or "none"
            raise NotFoundError(f"there is no model named {name!r}", hint=f"there are: {has}")
        return slots

    def _slot(self, name: str, version: str | None) -> Slot:
        slots = self._find(name)
        found = [slot for slot in slots if version in (None, "", slot.version)]
        if not found:
            has = ", ".join(slot.version for slot in slots)
            raise NotFoundError(f"{name} has no version {version!r}", hint=f"it has: {has}")
        return found[-1]

    def _add(self, slot: Slot) -> None:
        for other in self._slots:
            if (other.name, other.version) == (slot.name, slot.version):
                slot.close()
                if other.digest == slot.digest:  # one bundle, reached by two ways
                    return
                raise InputError(
                    f"{other.path} and {slot.path} are both {slot.name} version {slot.version}",
                    hint="remove one, or convert it again with another --version",
                )
        self._slots.append(slot)
        self._slots.sort(key=lambda slot: (slot.name, _version_key(slot.version)))


def _scan(sources: tuple[str | os.PathLike[str], ...], terms: Terms) -> Iterator[Slot]:
    for source in map(Path, sources):
        if not source.is_dir():
            yield Slot(source, terms, open_bundle(source))
            continue
        paths = sorted(path for path in source.iterdir() if path.suffix == SUFFIX)
        if not paths:
            raise InputError(
                f"{source} holds no {SUFFIX} file", hint="make one with: edge convert MODEL.onnx"
            )
        for path in paths:
            try:
                yield Slot(path, terms, open_bundle(path))
            except BundleError as error:
                log.error("%s is left out: %s", path, error)
                yield Slot(path, terms, error=error)


def _version_key(version: str) -> list[tuple[bool, int, str]]:
    """Numbers within versions compare as numbers: 1.9 comes before 1.10."""
    return [
        (part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in re.findall(r"\d+|\D+", version)
    ]
