"""What is kept of a pipeline's steps between runs, and what a run is told and finds."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.core.errors import UnavailableError
from edge.host.pipelines.feeding import Feeder
from edge.host.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.core.tensor import Array
    from edge.host.model import Model
    from edge.host.pipelines.graph import Step


class Found(NamedTuple):
    """What a step found for one key. Boxes lie in the whole picture, masks in the crop."""

    prediction: Any
    tensors: dict[str, Array]


class Terms(NamedTuple):
    """What a request asks of the queues that it has to wait in; 0 asks for nothing.

    ``is_here`` lets a model run on the caller's thread where nothing else is to be done meanwhile:
    the way to its own thread and back takes up to 0.5 ms on a small machine.
    """

    priority: int = 0
    timeout_us: int = 0
    is_here: bool = False


class StepWork:
    """What is kept of a step between runs: counters, and the way of pictures into its model."""

    def __init__(self, step: Step, find: Callable[[str], Model]) -> None:
        self.step = step
        self.statistics = Statistics()
        self.skipped = 0
        self._find = find
        self._feeder: Feeder | None = None
        self._lock = threading.Lock()

    def model(self) -> Model:
        """The step's model, loaded at the first call.

        Raises:
            UnavailableError: Another version came since the pipeline was checked, of another task.
            EdgeError: It can't be loaded.
        """
        model = self._find(self.step.spec.model)
        known = self.step.manifest
        if known is None or known.task != model.manifest.task:
            task = known.task if known is not None else "nothing yet"
            raise UnavailableError(
                f"{model.name} {model.version} does {model.manifest.task}, and did {task} when "
                "the pipeline was checked",
                hint="start again, and the pipeline is checked again",
            )
        return model

    def feeder(self, model: Model) -> Feeder:
        """The way of pictures into ``model``, which another version may have replaced."""
        feeder = self._feeder
        if feeder is None or not feeder.is_for(model):
            image = model.manifest.image
            if image is None:  # another version of the model than the pipeline was checked with
                raise UnavailableError(f"{model.name} {model.version} does not take pictures")
            feeder = self._feeder = Feeder(model, image)
        return feeder

    def skip(self) -> None:
        with self._lock:
            self.skipped += 1
