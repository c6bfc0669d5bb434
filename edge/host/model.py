"""One loaded model: runs it, counts what it costs, and knows why it runs as it does."""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.errors import UnsupportedError
from edge.host import goldens
from edge.host.batching import plan_batches
from edge.host.pictures import Pictures
from edge.host.response_cache import Remembered, cache_for
from edge.host.scheduler import Scheduler
from edge.host.seat import Seat
from edge.host.statistics import Statistics
from edge.settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future

    from edge.bundle import Bundle
    from edge.core.contracts import Placement
    from edge.core.manifest import Variant
    from edge.core.tensor import Array, Feeds, TensorSpec
    from edge.host.batching import BatchPlan
    from edge.host.capture import Capture
    from edge.host.fairness import FairShare
    from edge.host.goldens import GoldenResult
    from edge.host.health.watch import ModelWatch
    from edge.host.opening import Opened
    from edge.host.statistics import Snapshot
    from edge.vision import Geometry, Label, Prediction
    from edge.vision.image import Picture

_now = time.perf_counter_ns


class Model:
    """A variant on its engine, made by ``edge.load``. All methods may be called from any thread.

    ``digest`` stands for all the bundle holds. Of a runtime's model the session in ``seat`` comes
    and goes, as memory allows, and the first request after it went waits until it is back.
    """

    def __init__(
        self,
        bundle: Bundle,
        opened: Opened,
        *,
        reopen: Callable[[Opened], Opened] | None = None,
        settings: ModelSettings | None = None,
        fair: FairShare | None = None,
        watch: ModelWatch | None = None,
    ) -> None:
        self.manifest = bundle.manifest
        self.name = bundle.manifest.name
        self.version = bundle.manifest.version
        self.path = bundle.path
        self.digest = bundle.digest
        self.labels = bundle.labels
        self.statistics = Statistics()
        self._bundle = bundle
        self._settings = settings or ModelSettings()
        self.watch = watch
        self.seat = Seat(self.name, opened, self._plan(opened), reopen, watch)
        # What never gives way need not be counted, which with cold caches takes 5 µs.
        self._run = self.seat.run if reopen else opened.session.run
        self._pictures = Pictures(bundle.manifest, bundle.labels, opened.session.inputs)
        self._is_closed = False
        self._lock = threading.Lock()
        self._cache = cache_for(self._settings)
        self._fair = fair
        self._turns = turns = fair.turns(self._settings.share) if fair else None
        self._scheduler = Scheduler(
            self.name, self.seat, self._settings, self.statistics, turns=turns
        )
        # Also when the program ends, or forgets the model: threads do not end by themselves.
        self._forgotten = weakref.finalize(self, self._scheduler.forget)

    @property
    def opened(self) -> Opened:
        """What runs, or ran before it was unloaded."""
        return self.seat.opened

    @property
    def variant(self) -> Variant:
        return self.opened.variant

    @property
    def engine(self) -> str:
        """The one that runs it: the variant's own, or one that stands in for it."""
        return self.opened.candidate.engine

    @property
    def choice(self) -> str:
        """Why this variant runs."""
        return self.opened.choice

    @property
    def is_fallback(self) -> bool:
        """Whether it is not the variant, the engine or the device that the bundle prefers."""
        return self.opened.is_fallback

    @property
    def placement(self) -> Placement:
        """Where it runs."""
        return self.opened.session.placement

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.opened.session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.opened.session.outputs

    @property
    def batches(self) -> BatchPlan:
        """Whether requests may run as one, and if not as wished, why."""
        return self._scheduler.plan

    def snapshot(self) -> Snapshot:
        """``statistics`` as they stand, with what the response cache did if there is one."""
        counts = None if self._cache is None else self._cache.counts()
        is_running = self.seat.is_busy
        snapshot = self.statistics.snapshot()
        return msgspec.structs.replace(snapshot, cache=counts, is_running=is_running)

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def state(self) -> str:
        """``ready``; ``idle`` while it is unloaded, ``loading`` as it comes back."""
        if self.seat.is_taken:
            return "ready"
        return "loading" if self.seat.is_loading else "idle"

    @property
    def is_held_back(self) -> bool:
        """Whether requests have to wait for turns, as the device can not bear them all."""
        return self._fair is not None and self._fair.is_limited

    def infer(self, feeds: Feeds, *, at_once: bool = False) -> dict[str, Array]:
        """Run one batch on the caller's thread; while ``is_held_back``, when its turn comes.

        Args:
            feeds: Input name -> array; ``inputs`` says which.
            at_once: Do not wait for a turn.
        Returns:
            Output name -> array, owned by the caller; a ``Recalled`` if the response cache
            knew them.
        Raises:
            InputError: A name, dtype or fixed dimension differs from ``inputs``.
            UnavailableError: The model is closed.
            EngineError: The engine failed.
        """
        if self._cache is None:
            return self._infer(feeds, at_once)
        future = Remembered(self._cache, feeds)
        if not future.done():
            future.set_result(self._infer(feeds, at_once))
        return future.result()

    def submit(
        self, feeds: Feeds, *, priority: int = 0, timeout_us: int = 0
    ) -> Future[dict[str, Array]]:
        """Run one batch on the model's own threads; arrays must not change until it is done.

        Others that wait may run with it as one, if the model's settings allow batches.

        Args:
            priority: 1 is first, 0 stands for 10.
            timeout_us: How long it may wait for its turn; 0 for as long as it takes.
        Raises:
            UnavailableError: The model is closed, or too many requests wait. All else is raised
                by the future's ``result``.
        """
        if self._cache is None:
            return self._scheduler.submit(feeds, priority=priority, timeout_us=timeout_us)
        future = Remembered(self._cache, feeds)
        if not future.done():
            self._scheduler.submit(feeds, priority=priority, timeout_us=timeout_us, future=future)
        return future

    async def ainfer(
        self, feeds: Feeds, *, priority: int = 0, timeout_us: int = 0
    ) -> dict[str, Array]:
        """``submit`` without blocking the event loop."""
        import asyncio  # a tenth of a program's start, which most that call this paid already

        future = self.submit(feeds, priority=priority, timeout_us=timeout_us)
        return await asyncio.wrap_future(future)

    def predict(self, picture: Picture, *, top: int | None = None) -> Prediction:
        """Answer a picture: labels, boxes or a mask, by the task that the manifest declares.

        Args:
            picture: A path, the bytes of a file, or uint8 (height, width, 3) in BGR order.
            top: How many labels; None takes the number that the manifest says.
        Raises:
            InputError: The picture can't be read.
            UnsupportedError: The manifest does not say how pictures become tensors.
        """
        start = _now()
        with self._counting_failures(start):
            feeds, geometry = self.prepare(picture)
        prepared = _now()
        outputs = self.infer(feeds)  # which counts itself
        inferred = _now()
        with self._counting_failures(start):
            prediction = self.decode(outputs, geometry, top=top)
        self.statistics.transfer(prepared - start, _now() - inferred)
        return prediction

    def classify(self, picture: Picture, top: int = 5) -> tuple[Label, ...]:
        """The ``top`` most probable labels of a picture, best first.

        Raises:
            UnsupportedError: This model does not classify pictures.
        """
        if self.manifest.task != "classification":
            raise UnsupportedError(
                f"{self.name} does {self.manifest.task}, not classification", hint="use predict()"
            )
        labels: Any = self.predict(picture, top=top)
        return tuple(labels)

    def prepare(self, picture: Picture) -> tuple[dict[str, Array], Geometry]:
        """The first step of ``predict``: what to feed, and where the picture lies in it."""
        return self._pictures.prepare(picture)

    def decode(
        self, outputs: Mapping[str, Array], geometry: Geometry | None, *, top: int | None = None
    ) -> Prediction:
        """The last step of ``predict``: what the outputs for one picture say.

        Args:
            geometry: What ``prepare`` said; boxes and masks need it, labels don't.
        """
        return self._pictures.decode(outputs, geometry, top)

    def configure(self, max_batch: int, max_delay_us: int) -> BatchPlan:
        """Put requests together in another way from now on, and say what came of it.

        Raises:
            UnsupportedError: Clients of what is made for batches send single rows: they go on.
        """
        if self.batches.is_padded and max_batch == 1:
            raise UnsupportedError(
                f"{self.name} takes batches of {self.batches.max_rows} only: without them, "
                "requests that send less would fail",
                hint=f"set max_batch = 1 in [models.{self.name}] of edge.toml, and start again",
            )
        self._settings = msgspec.structs.replace(
            self._settings, max_batch=max_batch, max_delay_us=max_delay_us
        )
        self.seat.replan(self._plan)
        self._scheduler.configure(self._settings)
        return self.batches

    def capture(self, most_bytes: int) -> Capture:
        """The next frame that runs, and its answer; what the response cache knows does not run."""
        return self.seat.capture(most_bytes)

    def verify_goldens(self) -> list[GoldenResult]:
        """Run the bundle's goldens here; they do not count in ``statistics``."""
        sitting = self.seat.take()
        try:
            opened = sitting.opened
            return goldens.verify(self._bundle, opened.variant, opened.session)
        finally:
            self.seat.give(sitting)

    def replace(self, opened: Opened) -> bool:
        """Run every request from now on with another session; False if the model is closed.

        The former session is closed once its last request has ended.
        """
        if not self.seat.replace(opened, self._plan(opened)):
            return False
        if self._cache is not None:
            self._cache.forget()
        return True

    def close(self) -> None:
        """Finish what was submitted, and give the engine's memory back after the last request."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._forgotten.detach()
        self._scheduler.close()
        self.seat.close()
        self._run = self.seat.run  # which says that it is closed
        self._bundle.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Model {self.name} {self.version}: {self.variant.id}, {self.state}>"

    def _infer(self, feeds: Feeds, at_once: bool) -> dict[str, Array]:
        start, queue_ns, fair = _now(), 0, self._fair
        try:
            if fair is None or at_once or not fair.is_limited:
                outputs = self._run(feeds)
            else:
                outputs, queue_ns = self._run_in_turn(feeds)
        except BaseException as error:
            self.statistics.failure(_now() - start, error)
            raise
        self.statistics.success(_now() - start - queue_ns, queue_ns)
        return outputs

    @contextmanager
    def _counting_failures(self, start_ns: int) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.statistics.failure(_now() - start_ns, error)
            raise

    def _run_in_turn(self, feeds: Feeds) -> tuple[dict[str, Array], int]:
        """The outputs, and how many nanoseconds it waited."""
        assert self._turns is not None
        start = _now()
        sitting = self.seat.take()  # before its turn: nobody else need wait for a load
        try:
            with self._turns:
                queue_ns = _now() - start
                return sitting.run(feeds), queue_ns
        finally:
            self.seat.give(sitting)

    def _plan(self, opened: Opened) -> BatchPlan:
        return plan_batches(self._bundle, opened, self._settings.max_batch)
