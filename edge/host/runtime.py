"""Many bundles behind one door: found by name and version, loaded when first used."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from edge.core.errors import NotFoundError, UnavailableError
from edge.host.activation import Activation, Probation
from edge.host.catalog import Catalog
from edge.host.choice import Fallback, Wish
from edge.host.intake import Intake
from edge.host.oversight import Oversight
from edge.host.residency import MemoryUse, Residency, budget_bytes
from edge.host.slot import Slot, Terms
from edge.host.status import ModelStatus
from edge.settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.bundle.signing import Keyring
    from edge.core.pipelines import PipelineSpec
    from edge.core.tensor import Array, Feeds
    from edge.host.batching import BatchPlan
    from edge.host.folders import FolderWatch
    from edge.host.governor import Strain
    from edge.host.health.status import ModelHealth
    from edge.host.health.truth import Truth
    from edge.host.metering import CostReport
    from edge.host.model import Model
    from edge.host.pipelines import Pipeline, PipelineStatus
    from edge.settings import Cost, Power
    from edge.settings import Health as HealthSettings

log = logging.getLogger(__name__)

T = TypeVar("T")


class Runtime:
    """Runs the models of bundles and of folders of ``NAME.edge`` or ``NAME/VERSION.edge``; any
    thread may call it.

    A damaged bundle in a folder shows as failed in ``status`` and leaves the others alone.

    Args:
        models: How requests for a model are run, by its name, where not by the defaults.
        concurrency: How many batches, of whatever models, run at the same time on the models' own
            threads, in fair turns; 0 for any number.
        power: What gives way when the device throttles or draws more than it may; None to let it.
        cost: What energy and the device cost; metered wherever ``power`` has sensors read.
        memory: What all loaded models may hold together, in bytes or as "2GiB"; None for this
            machine's less what its system needs, 0 for any number. Who was not used for longest
            is unloaded first, and comes back with its next request.
        idle_s: Unload what was not used for so long; 0 for never.
        watch_s: How often to look into the folders for bundles that came, changed or went; 0 for
            never. A version that is newer than the active one takes over once it has proven right.
        health: Whether models still see, say and take what they did when converted; None if
            nobody looks.
        probation: When a version that took over is taken back by itself.
        pipelines: Models that work together, by a name that no model has.
        trust: Whose signatures bundles have to bear; None asks for none.
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
        cost: Cost | None = None,
        health: HealthSettings | None = None,
        pipelines: Mapping[str, PipelineSpec] | None = None,
        memory: int | str | None = None,
        idle_s: float = 0.0,
        watch_s: float = 0.0,
        probation: Probation | None = None,
        trust: Keyring | None = None,
    ) -> None:
        self._is_closed = False
        self._catalog = Catalog()
        self._activation = Activation(self._catalog, probation or Probation())
        self._watch: FolderWatch | None = None
        self._pipelines: dict[str, Pipeline] = {}
        self._residency = Residency(budget_bytes(memory), idle_s)
        self.oversight = Oversight(concurrency, power, cost, health, self.status)
        self._terms = Terms(
            Wish("", engine or "", dict(options or {}), fallback),
            dict(models or {}),
            self._residency,
            self.oversight.turns,
            trust,
            self.oversight.health,
        )
        paths = [Path(source) for source in sources]
        self.folders = [path for path in paths if path.is_dir()]
        self._intake = Intake(self._catalog, self._activation, self._terms, self.pipeline_names)
        try:
            self._watch = self._intake.scan(paths, watch_s)
            self._pipelines = self._plan_pipelines(pipelines or {})
            if self._watch is not None:
                self._watch.start()
            self.oversight.start()
        except BaseException:
            self.close()
            raise
        for name in self._terms.settings.keys() - self.names():
            log.warning("there are settings for %r, but no model of that name", name)

    def names(self) -> list[str]:
        """Names of all models, sorted; one with several versions stands once."""
        return self._catalog.names()

    def versions(self, name: str) -> list[str]:
        """Versions of a model, oldest first."""
        return [slot.version for slot in self._catalog.of(name)]

    def model(self, name: str, version: str | None = None) -> Model:
        """The model, loaded at the first call; its active version unless one is named.

        That is the newest one, unless it did not prove right or was taken back.

        Where an engine has to be built first, another variant serves if ``fallback`` and the
        bundle allow it, and gives way to the built one between two requests; else this waits.

        Raises:
            NotFoundError: There is no model of that name and version.
            UnavailableError: The runtime is closed, or the model failed to load before.
            EdgeError: It fails to load now.
        """
        return self._with(Slot.model, name, version)

    def infer(
        self, name: str, feeds: Feeds, version: str | None = None, *, request_id: str = ""
    ) -> dict[str, Array]:
        """Run one batch on the caller's thread, as ``Model.infer`` does.

        Where another version takes over meanwhile, that one answers.

        Args:
            request_id: What ``label`` is to call the answer by.
        """

        def infer(slot: Slot) -> dict[str, Array]:
            model = slot.model()
            outputs = model.infer(feeds)
            if request_id and model.watch is not None:
                model.watch.remember(request_id, feeds, outputs, model.variant)
            return outputs

        return self._with(infer, name, version)

    def label(self, name: str, request_id: str, truth: Truth, version: str | None = None) -> None:
        """Say what was right for a request, by which the model's accuracy is known.

        Args:
            truth: A class, by index or name; for detection, a list of ``TrueBox``; for
                segmentation, a ``TrueMask``.
        Raises:
            NotFoundError: No such answer is remembered, or not any more, or it has its label.
            InputError: There is no such class.
            UnsupportedError: Answers are not remembered, or labels mean nothing for the task.
        """
        slot = self._catalog.find(name, version)
        others = () if version else [other.version for other in self._catalog.of(name)]
        self.oversight.label(name, [slot.version, *others], request_id, truth)

    def health(self) -> list[ModelHealth]:
        """Of each version of a model that was loaded; empty if nobody looks."""
        return self.oversight.health.health() if self.oversight.health is not None else []

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
        """Load models while there is room, those that are pinned first; the others wait for use,
        as do versions that are not active.

        Those that fail are logged, and say why in ``status``. Engines that have to be built are,
        in the background, one after the other.
        """
        slots = [s for s in self._catalog.slots if s.is_active and not s.is_withdrawn]
        for slot in sorted(slots, key=lambda slot: not slot.is_pinned):
            self._activation.start(slot)
        for slot in self._catalog.slots:
            if not slot.is_active:
                slot.rest()

    def load(self, name: str, version: str | None = None) -> None:
        """Load a model now, also if it was unloaded or failed before.

        Raises:
            NotFoundError: There is no model of that name and version.
            EdgeError: It fails to load.
        """
        self._catalog.find(name, version).load()

    def unload(self, name: str, version: str | None = None) -> None:
        """Give a model's memory back after its last request; it answers nothing until ``load``.

        Args:
            version: None for all.
        Raises:
            NotFoundError: There is no model of that name and version.
        """
        for slot in [self._catalog.find(name, version)] if version else self._catalog.of(name):
            slot.unload()

    def activate(self, name: str, version: str) -> None:
        """Let a version answer who names none, once it is loaded and has proven right.

        It does so after a restart as well, until a version comes that is newer than all.

        Raises:
            NotFoundError: There is no model of that name and version.
            EdgeError: It does not load or answer as it should: nothing has changed.
        """
        slot = self._catalog.find(name, version)
        self._activation.activate(slot)
        self._activation.hold_newer(slot)

    def install(
        self, bundle: Path, folder: Path, *, activate: bool = True, keep: int = 0
    ) -> ModelStatus:
        """Move a bundle into one of ``folders``, which is on the same disk, and let it serve.

        Args:
            activate: False to have it wait for ``activate``, also after a restart.
            keep: Versions of it that are left in that folder, older ones are deleted; 0 for all.
        Raises:
            InputError: There is another bundle of that name and version.
            EdgeError: It can't be used or does not do; what served before does.
        """
        slot = self._intake.install(bundle, folder, activate=activate)
        if keep:
            self._intake.prune(slot, keep)
        return slot.status()

    def roll_back(self, name: str, reason: str = "by request") -> str:
        """Let the version before the active one serve again, and tell which that is.

        The other one is not activated again, also after a restart, unless it is asked for.

        Raises:
            NotFoundError: There is no model of that name.
            UnavailableError: It has no earlier version.
        """
        return self._activation.roll_back(name, reason).version

    def rejection(self, name: str, version: str) -> str:
        """Why a version was taken back and is not to serve by itself again; empty if it was not.

        Raises:
            NotFoundError: There is no model of that name and version.
        """
        return self._activation.rejections.reason(self._catalog.find(name, version).digest)

    def set_batching(self, name: str, max_batch: int, max_delay_us: int) -> BatchPlan | None:
        """Put a model's requests together in another way until this process ends.

        Returns:
            What the active version does now, and why not all that was wished for; None if that
            shows when it is loaded.
        Raises:
            NotFoundError: There is no model of that name.
            UnsupportedError: Requests that come would fail.
        """
        active = self._catalog.find(name, None)
        plan = active.configure(max_batch, max_delay_us)
        settings = self._terms.settings
        settings[name] = msgspec.structs.replace(
            settings.get(name, ModelSettings()), max_batch=max_batch, max_delay_us=max_delay_us
        )
        for slot in self._catalog.of(name):
            if slot is not active:
                slot.configure(max_batch, max_delay_us)
        return plan

    def status(self) -> list[ModelStatus]:
        """One entry for each version of each model, by name, oldest first."""
        return [slot.status() for slot in self._catalog.slots]

    def status_of(self, name: str, version: str | None = None) -> ModelStatus:
        """What is known of the model that ``model`` would give.

        Raises:
            NotFoundError: There is no model of that name and version.
        """
        return self._catalog.find(name, version).status()

    @property
    def generation(self) -> int:
        """Changes when another version of a model is active, or one came or went."""
        return self._catalog.generation

    @property
    def strain(self) -> Strain | None:
        """How the device bears its work, and what is held back for it; None if nobody looks."""
        return self.oversight.strain

    @property
    def cost(self) -> CostReport | None:
        """What inferences cost so far; None if nobody reads sensors."""
        return self.oversight.cost

    @property
    def is_ready(self) -> bool:
        """Whether no model is still to be loaded, and one answers, if need be after loading."""
        states = {slot.state for slot in self._catalog.slots}
        answering = {"ready", "idle"}
        settled = states <= {*answering, "failed"}
        return not self._is_closed and settled and bool(not states or states & answering)

    @property
    def memory(self) -> MemoryUse:
        """What models may hold, and what they hold."""
        return self._residency.use

    @property
    def is_loading(self) -> bool:
        """Whether a model is being loaded, which ``close`` waits for, or an engine in the making,
        which it does not.
        """
        return any(slot.is_loading for slot in self._catalog.slots)

    def close(self) -> None:
        """Close all models; a second call does nothing."""
        self._residency.close()  # first: what waits for room ends, and nobody waits for it
        if self._watch is not None:
            self._watch.close()
        self._activation.close()
        for pipeline in self._pipelines.values():
            pipeline.close()
        self._is_closed = True
        self.oversight.close()
        for slot in self._catalog.slots:
            slot.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _plan_pipelines(self, specs: Mapping[str, PipelineSpec]) -> dict[str, Pipeline]:
        if not specs:
            return {}
        from edge.host.pipelines import make_pipelines

        slots = [self._catalog.find(name, None) for name in self.names()]
        manifests = {slot.name: slot.manifest for slot in slots}
        labels = {slot.name: slot.labels for slot in slots}
        return make_pipelines(specs, manifests, labels, self.model)

    def _with(self, what: Callable[[Slot], T], name: str, version: str | None) -> T:
        slot = self._catalog.find(name, version)
        while True:
            if self._is_closed:
                raise UnavailableError("the runtime is closed")
            try:
                return what(slot)
            except UnavailableError:
                former, slot = slot, self._catalog.find(name, version)
                if slot is former:
                    raise
