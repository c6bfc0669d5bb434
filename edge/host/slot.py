"""One model of a runtime, from its file on disk to its last answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from edge.bundle import Bundle, open_bundle
from edge.core.contracts import Placement
from edge.core.errors import BundleError, EdgeError, EngineError, UnavailableError
from edge.host.statistics import Snapshot

if TYPE_CHECKING:
    from edge.host.model import Model

State = Literal["staged", "loading", "warming", "ready", "idle", "failed"]


Load = Callable[[Bundle], "Model"]
UNKNOWN = "?"


class ModelStatus(msgspec.Struct, frozen=True):
    """What a runtime knows of one of its models.

    ``reason`` says why it failed. What stands behind ``digest`` is empty until it was loaded.
    """

    name: str
    version: str
    state: State
    reason: str = ""
    path: str = ""
    digest: str = ""
    engine: str = ""
    variant: str = ""
    precision: str = ""
    choice: str = ""
    is_fallback: bool = False
    placement: Placement | None = None
    statistics: Snapshot | None = None


class Slot:
    """Loads its bundle once, however many threads ask; a load that failed stays failed."""

    def __init__(
        self, path: Path, bundle: Bundle | None = None, error: BundleError | None = None
    ) -> None:
        self.path = path
        self.name = bundle.manifest.name if bundle else path.stem
        self.version = bundle.manifest.version if bundle else UNKNOWN
        self.digest = bundle.digest if bundle else ""
        self.error: EdgeError | None = error
        self.state: State = "failed" if error else "staged"
        self._bundle = bundle
        self._model: Model | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def model(self, load: Load) -> Model:
        """The loaded model; ``load`` makes one of the bundle if there is none yet.

        Raises:
            EdgeError: It can't be loaded, or could not be the first time.
        """
        model = self._model
        if model is not None and model.state == "ready":
            return model
        with self._lock:
            if self._model is not None and self._model.state == "ready":
                return self._model
            if self._is_closed:
                raise UnavailableError("the runtime is closed")
            if self.state == "failed":
                raise UnavailableError(
                    f"model {self.name} failed to load: {self.error}",
                    hint=self.error.hint if self.error else "",
                )
            self._model = self._load(load)
            return self._model

    def status(self) -> ModelStatus:
        model = self._model
        state = model.state if model is not None and self.state == "ready" else self.state
        status = ModelStatus(
            name=self.name,
            version=self.version,
            state=state,  # type: ignore[arg-type]
            reason=str(self.error or ""),
            path=str(self.path),
            digest=self.digest,
        )
        if model is None:
            return status
        return msgspec.structs.replace(
            status,
            engine=model.variant.engine,
            variant=model.variant.id,
            precision=model.placement.precision,
            choice=model.choice,
            is_fallback=model.is_fallback,
            placement=model.placement,
            statistics=model.statistics.snapshot(),
        )

    def close(self) -> None:
        """Close for good: a thread that asks at the same time loads nothing behind our back."""
        with self._lock:
            self._is_closed = True
            if self._model is not None:
                self._model.close()
            if self._bundle is not None:
                self._bundle.close()

    def _load(self, load: Load) -> Model:
        self.state = "loading"
        try:
            bundle, self._bundle = self._bundle or self._reopen(), None
            try:
                model = load(bundle)
            except BaseException:
                bundle.close()
                raise
            self.state = "warming"
            try:
                _warm_up(model)
            except BaseException:
                model.close()
                raise
        except EdgeError as error:
            self.error, self.state = error, "failed"
            raise
        except BaseException:
            self.state = "staged"
            raise
        self.state = "ready"
        return model

    def _reopen(self) -> Bundle:
        bundle = open_bundle(self.path)
        if bundle.digest != self.digest:
            bundle.close()
            raise BundleError(f"{self.path} was replaced since the runtime found it")
        return bundle


def _warm_up(model: Model) -> None:
    """The first inferences are slow: let the goldens be those, and believe what they say."""
    for result in model.verify_goldens():
        if not result.passed:
            raise EngineError(
                f"{model.variant.id} does not answer as the source model did: golden "
                f"{result.golden}, output {result.output} is off by {result.max_abs_error:.3g}, "
                f"allowed is {result.tolerance:.3g}",
                hint=f"compare all variants with: edge verify {model.path}",
            )
