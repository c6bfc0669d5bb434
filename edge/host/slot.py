"""One model of a runtime, from its file on disk to its last answer."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Literal

import msgspec

from edge.bundle import Bundle, open_bundle
from edge.core.contracts import Placement
from edge.core.errors import BundleError, EdgeError, UnavailableError
from edge.host.building import Build, BuildProgress
from edge.host.choice import Wish
from edge.host.fairness import FairShare
from edge.host.model import Model
from edge.host.opening import Opened, Opener, run_goldens
from edge.host.statistics import Snapshot
from edge.settings import ModelSettings

log = logging.getLogger(__name__)

State = Literal["staged", "loading", "building", "warming", "ready", "idle", "failed"]

UNKNOWN = "?"


class ModelStatus(msgspec.Struct, frozen=True):
    """What a runtime knows of one of its models.

    ``reason`` says why it failed, or what is built while it, or nothing, serves. What stands
    behind ``digest`` is empty until it was loaded; ``engine`` is the one that runs it.
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
    building: BuildProgress | None = None


class Slot:
    """Loads its bundle once, however many threads ask; a load that failed stays failed.

    Where an engine has to be built, something else serves meanwhile if the caller's wish and the
    bundle allow it.
    """

    def __init__(
        self, path: Path, bundle: Bundle | None = None, error: BundleError | None = None
    ) -> None:
        self.path = path
        self.manifest = bundle.manifest if bundle else None
        self.name = bundle.manifest.name if bundle else path.stem
        self.version = bundle.manifest.version if bundle else UNKNOWN
        self.digest = bundle.digest if bundle else ""
        self.error: EdgeError | None = error
        self.state: State = "failed" if error else "staged"
        self.settings: ModelSettings | None = None
        self.fair: FairShare | None = None
        self._bundle = bundle
        self._model: Model | None = None
        self._build: Build | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def model(self, wish: Wish) -> Model:
        """The loaded model; waits for its engine to be built where nothing else can serve.

        Raises:
            EdgeError: It can't be loaded, or could not be the first time.
        """
        while True:
            model = self._model
            if model is not None and model.state == "ready":
                return model
            build = self.start(wish)
            if build is not None:
                build.done.wait()

    def start(self, wish: Wish) -> Build | None:
        """Load the model if it is not; gives the build that has to end before it can serve.

        Raises:
            EdgeError: It can't be loaded, or could not be the first time.
        """
        with self._lock:
            if self._model is not None and self._model.state == "ready":
                return None
            if self._is_closed:
                raise UnavailableError("the runtime is closed")
            if self.state == "failed":
                raise UnavailableError(
                    f"model {self.name} failed to load: {self.error}",
                    hint=self.error.hint if self.error else "",
                )
            if self._build is None:
                self._load(wish)
            return self._build if self._model is None or self._model.state != "ready" else None

    @property
    def is_building(self) -> bool:
        return self._build is not None

    def status(self) -> ModelStatus:
        model, build = self._model, self._build
        state = model.state if model is not None and self.state == "ready" else self.state
        progress = build.progress if build is not None else None
        status = ModelStatus(
            name=self.name,
            version=self.version,
            state=state,  # type: ignore[arg-type]
            reason=str(self.error or progress or ""),
            path=str(self.path),
            digest=self.digest,
            building=progress,
        )
        if model is None:
            return status
        opened = model.opened
        placement = opened.session.placement
        return msgspec.structs.replace(
            status,
            engine=opened.candidate.engine,
            variant=opened.variant.id,
            precision=placement.precision,
            choice=opened.choice,
            is_fallback=opened.is_fallback,
            placement=placement,
            statistics=model.snapshot(),
        )

    def close(self) -> None:
        """Close for good: a thread that asks at the same time loads nothing behind our back.

        A build that is at work ends by itself, and what it made is closed at once.
        """
        with self._lock:
            self._is_closed = True
            if self._build is not None:
                self._build.abandon()
                self._build = None
            if self._model is not None:
                self._model.close()
            if self._bundle is not None:
                self._bundle.close()

    def _load(self, wish: Wish) -> None:
        """Called with the lock held."""
        self.state = "loading"
        self._model = None
        try:
            bundle, self._bundle = self._bundle or self._reopen(), None
            try:
                self._open(bundle, Opener(bundle.manifest, wish))
            except BaseException:
                bundle.close()
                raise
        except EdgeError as error:
            self.error, self.state = error, "failed"
            raise
        except BaseException:
            self.state = "staged"
            raise

    def _open(self, bundle: Bundle, opener: Opener) -> None:
        opened = opener.open_now(bundle, self._warm_up)
        if opener.to_build:
            self._begin(opener, opened)
        if opened is None:
            self.state = "building"
            bundle.close()
            return
        self._model = self._made(bundle, opened, is_interim=bool(opener.to_build))
        self.state = "ready"

    def _warm_up(self, bundle: Bundle, opened: Opened) -> None:
        self.state = "warming"
        run_goldens(bundle, opened)

    def _begin(self, opener: Opener, interim: Opened | None) -> None:
        """Build what is better than ``interim``."""

        def succeed(opened: Opened, bundle: Bundle) -> None:
            with self._lock:
                self._take(opened, bundle)

        def fail(error: EdgeError) -> None:
            with self._lock:
                self._build = None
                model = self._model
                if self._is_closed:
                    return
                if model is not None and interim is not None:
                    log.error("%s stays a fallback: %s", self.name, error)
                    model.settle(opener.revised(interim))
                else:
                    log.error("%s %s: %s", self.name, self.version, error)
                    self.error, self.state = error, "failed"

        self._build = Build(opener, self._reopen, succeed, fail)
        self._build.start()

    def _take(self, opened: Opened, bundle: Bundle) -> None:
        """Serve what was built; called with the lock held."""
        self._build = None
        if self._is_closed:
            opened.session.close()
            bundle.close()
        elif self._model is None:
            self._model = self._made(bundle, opened, is_interim=False)
            self.state = "ready"
        else:
            bundle.close()
            if not self._model.replace(opened):  # it was closed, and is loaded anew if asked for
                opened.session.close()

    def _made(self, bundle: Bundle, opened: Opened, *, is_interim: bool) -> Model:
        return Model(bundle, opened, is_interim=is_interim, settings=self.settings, fair=self.fair)

    def _reopen(self) -> Bundle:
        bundle = open_bundle(self.path)
        if bundle.digest != self.digest:
            bundle.close()
            raise BundleError(f"{self.path} was replaced since the runtime found it")
        return bundle
