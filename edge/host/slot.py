"""One model of a runtime, from its file on disk to its last answer."""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edge.bundle import Bundle, open_bundle
from edge.core.errors import BundleError, EdgeError, EngineError, UnavailableError
from edge.host.building import Build
from edge.host.choice import Wish
from edge.host.fairness import FairShare
from edge.host.goldens import prove
from edge.host.model import Model
from edge.host.opening import Opened, Opener
from edge.host.residency import NoRoomError, Residency
from edge.host.status import ModelStatus, State, with_model
from edge.settings import ModelSettings

if TYPE_CHECKING:
    from edge.bundle.signing import Keyring
    from edge.host.batching import BatchPlan
    from edge.host.health.keeper import HealthKeeper

log = logging.getLogger(__name__)

UNKNOWN = "?"


class Terms(NamedTuple):
    """What a runtime's models have in common: what is wished for, and what they share."""

    wish: Wish
    settings: dict[str, ModelSettings]
    residency: Residency
    fair: FairShare | None = None
    trust: Keyring | None = None
    health: HealthKeeper | None = None


class Slot:
    """Loads its bundle once, however many threads ask; a load that failed stays failed until
    somebody calls ``load``.

    Where an engine has to be built, something else serves meanwhile if the caller's wish and the
    bundle allow it.
    """

    def __init__(
        self,
        path: Path,
        terms: Terms,
        bundle: Bundle | None = None,
        error: BundleError | None = None,
    ) -> None:
        self.path = path
        self.manifest = bundle.manifest if bundle else None
        self.labels = bundle.labels if bundle else ()
        self.name = bundle.manifest.name if bundle else path.stem
        self.version = bundle.manifest.version if bundle else UNKNOWN
        self.digest = bundle.digest if bundle else ""
        self.error: EdgeError | None = error
        self.state: State = "failed" if error else "staged"
        self.is_active = False
        self._terms = terms
        self._settings = terms.settings.get(self.name, ModelSettings())
        self._bundle = bundle
        self._model: Model | None = None
        self._build: Build | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        self.is_withdrawn = False

    def model(self) -> Model:
        """The model, loaded once; waits for its engine to be built where nothing else can serve.

        Raises:
            EdgeError: It can't be loaded, could not be the first time, or was unloaded.
        """
        while True:
            model = self._model
            is_out = self.is_withdrawn or self.state == "failed"
            if model is not None and not is_out and not model.is_closed:
                return model
            build = self.start()
            if build is not None:
                build.done.wait()

    def start(self, *, may_evict: bool = True) -> Build | None:
        """Load the model if it never was; gives the build that has to end before it can serve.

        Args:
            may_evict: Whether others may have to go for it.
        Raises:
            NoRoomError: There is no room for it now.
            EdgeError: It can't be loaded, could not be the first time, or was unloaded.
        """
        with self._lock:
            if self._is_closed:
                raise UnavailableError(
                    f"model {self.name} {self.version} or the runtime is closed",
                    hint="load it again",
                )
            if self.state == "failed":
                raise UnavailableError(
                    f"model {self.name} failed to load: {self.error}",
                    hint=self.error.hint if self.error else "",
                )
            if self.is_withdrawn:
                raise UnavailableError(f"model {self.name} was unloaded", hint="load it again")
            model = self._model
            if model is not None and not model.is_closed:
                return None
            if self._build is None:
                self._load(may_evict)
            return self._build if self._model is None else None

    def load(self) -> None:
        """Load it now, also if it was unloaded or failed before.

        Raises:
            EdgeError: It can't be loaded.
        """
        with self._lock:
            self.is_withdrawn = False
            if self._model is not None:
                self._model.seat.bar("")
                worker = self._model.opened.session.worker_status()
                if worker is not None and worker.failure:
                    self._model.seat.evict("failure")
            if self.state == "failed" and self._build is None:
                self.state, self.error = "staged" if self._model is None else "ready", None
        seat = self.model().seat
        seat.give(seat.take())

    def configure(self, max_batch: int, max_delay_us: int) -> BatchPlan | None:
        """Put requests together in another way; None if that shows when it is loaded.

        Raises:
            UnsupportedError: Requests that come would fail.
        """
        model = self._model
        plan = model.configure(max_batch, max_delay_us) if model is not None else None
        self._settings = msgspec.structs.replace(
            self._settings, max_batch=max_batch, max_delay_us=max_delay_us
        )
        return plan

    def unload(self) -> None:
        """Give the memory back once the last request ended, and answer nothing until ``load``."""
        with self._lock:
            self.is_withdrawn = True
            if self._model is not None:
                self._model.seat.bar(f"model {self.name} was unloaded")
                self._model.seat.evict("request")

    def rest(self) -> None:
        """Give the memory back once the last request ended; the next one loads it again."""
        if self._lock.acquire(blocking=False):  # else it is loaded now, or has been
            try:
                if self.state == "staged":
                    self.state = "idle"
            finally:
                self._lock.release()
        model = self._model
        if model is not None:
            model.seat.evict("superseded")

    def reject(self, reason: str) -> None:
        """Give the memory back and answer nothing until ``load``, as it does not do its work."""
        with self._lock:
            self.state, self.error = "failed", EngineError(reason)
            if self._model is not None:
                self._model.seat.bar(f"model {self.name} {self.version}: {reason}")
                self._model.seat.evict("rejected")

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.version

    @property
    def is_pinned(self) -> bool:
        return self._settings.pinned

    @property
    def is_loading(self) -> bool:
        """Whether it is being loaded, or an engine made for it."""
        model = self._model
        is_coming_back = model is not None and model.seat.is_loading
        return self._build is not None or self.state in ("loading", "warming") or is_coming_back

    def status(self) -> ModelStatus:
        model, build = self._model, self._build
        state = model.state if model is not None and self.state == "ready" else self.state
        progress = build.progress if build is not None else None
        status = ModelStatus(
            name=self.name,
            version=self.version,
            state=state,  # type: ignore[arg-type]
            reason=str(self.error or progress or ""),
            is_active=self.is_active,
            is_withdrawn=self.is_withdrawn,
            path=str(self.path),
            digest=self.digest,
            building=progress,
        )
        return status if model is None else with_model(status, model)

    def close(self) -> None:
        """Close for good: a thread that asks at the same time loads nothing behind our back.

        A build that is at work ends by itself, and what it made is closed at once.
        """
        with self._lock:
            self._is_closed = True
            if self._build is not None:
                self._build.abandon()
                self._build = None
            if self._bundle is not None:
                self._bundle.close()
            model = self._model
        if model is not None:  # its last requests may wait for what a build hands over to us
            model.close()

    def _load(self, may_evict: bool) -> None:
        """Called with the lock held."""
        self.state = "loading"
        self._model = None
        terms = self._terms
        try:
            bundle, self._bundle = self._bundle or self._reopen(), None
            try:
                opener = Opener(bundle.manifest, terms.wish, self._settings, terms.residency)
                opener.starter.may_evict = may_evict
                self._open(bundle, opener)
                opener.starter.may_evict = True
            except NoRoomError:
                self._bundle = bundle  # its file may be replaced before there is room
                raise
            except BaseException:
                bundle.close()
                raise
        except NoRoomError:
            self.state = "idle"
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
        self._model = self._made(bundle, opened, opener)
        self.state = "ready"

    def _warm_up(self, bundle: Bundle, opened: Opened) -> None:
        self.state = "warming"
        prove(bundle, opened.variant, opened.session)

    def _begin(self, opener: Opener, interim: Opened | None) -> None:
        """Build what is better than ``interim``."""

        def succeed(opened: Opened, bundle: Bundle) -> None:
            with self._lock:
                self._take(opened, bundle, opener)

        def fail(error: EdgeError) -> None:
            with self._lock:
                self._build = None
                model = self._model
                if self._is_closed:
                    return
                if model is not None and interim is not None:
                    log.error("%s stays a fallback: %s", self.name, error)
                    model.seat.describe(opener.revised(model.opened))
                else:
                    log.error("%s %s: %s", self.name, self.version, error)
                    self.error, self.state = error, "failed"

        def exchange() -> AbstractContextManager[object]:
            model = self._model
            return nullcontext() if model is None else model.seat.exchange()

        self._build = Build(opener, self._reopen, exchange, succeed, fail)
        self._build.start()

    def _take(self, opened: Opened, bundle: Bundle, opener: Opener) -> None:
        """Serve what was built; called with the lock held."""
        self._build = None
        if self._is_closed:
            opened.close()
            bundle.close()
        elif self._model is None:
            self._model = self._made(bundle, opened, opener)
            self.state = "ready"
        else:
            bundle.close()
            is_taken = False
            try:
                is_taken = self._model.replace(opened)
            finally:
                if not is_taken:  # it was closed, and is loaded anew if asked for
                    opened.close()

    def _made(self, bundle: Bundle, opened: Opened, opener: Opener) -> Model:
        health = self._terms.health
        try:
            return Model(
                bundle,
                opened,
                reopen=partial(opener.open_again, bundle),
                settings=self._settings,
                fair=self._terms.fair,
                watch=health.watch(bundle) if health is not None else None,
            )
        except BaseException:  # as its bundle was damaged meanwhile, or the engine has a bug
            opened.close()
            raise

    def _reopen(self) -> Bundle:
        bundle = open_bundle(self.path)
        if bundle.digest != self.digest:
            bundle.close()
            raise BundleError(f"{self.path} was replaced since the runtime found it")
        return bundle
