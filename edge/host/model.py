"""One loaded model: a bundle's best variant for this machine, and its statistics."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from edge.bundle import Bundle, open_bundle
from edge.core import plugins
from edge.core.contracts import Placement, Session
from edge.core.errors import ProfileError, UnavailableError, UnsupportedError
from edge.core.manifest import Variant
from edge.core.profile import DeviceProfile, load_profile
from edge.host.choice import Choice, Fallback, choose
from edge.host.statistics import Statistics

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds, TensorSpec
    from edge.vision.image import Picture
    from edge.vision.predictions import Label, Prediction

log = logging.getLogger(__name__)


class GoldenResult(msgspec.Struct, frozen=True):
    """One output of one golden, run here."""

    golden: int
    output: str
    max_abs_error: float
    tolerance: float
    passed: bool


class Model:
    """A loaded model. Any thread may call ``infer``; ``submit`` queues on one thread of its own."""

    def __init__(self, bundle: Bundle, session: Session, choice: Choice) -> None:
        self.manifest = bundle.manifest
        self.name = bundle.manifest.name
        self.version = bundle.manifest.version
        self.labels = bundle.labels
        self.variant = choice.variant
        self.choice = choice.reason
        self.is_fallback = choice.is_fallback or session.placement.is_fallback
        self.placement: Placement = session.placement
        self.inputs: tuple[TensorSpec, ...] = session.inputs
        self.outputs: tuple[TensorSpec, ...] = session.outputs
        self.statistics = Statistics()
        self._bundle = bundle
        self._session = session
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run one batch on the caller's thread.

        Args:
            feeds: Input name -> array, as ``inputs`` says.
        Returns:
            Output name -> array, owned by the caller.
        Raises:
            InputError: A name, dtype or fixed dimension differs from ``inputs``.
            EngineError: The engine failed.
            UnavailableError: The model was closed.
        """
        return self._run(feeds, queue_ns=0)

    def submit(self, feeds: Feeds) -> Future[dict[str, Array]]:
        """Queue one batch; the future gives what ``infer`` would return or raise."""
        return self._worker().submit(self._run_queued, feeds, time.perf_counter_ns())

    async def ainfer(self, feeds: Feeds) -> dict[str, Array]:
        """``infer`` for asyncio: the loop goes on meanwhile."""
        return await asyncio.wrap_future(self.submit(feeds))

    def predict(self, picture: Picture, *, top: int | None = None) -> Prediction:
        """Prepare a picture, run it, and decode the answer, all as the manifest says.

        Args:
            picture: A path, the bytes of a picture file, or uint8 (height, width, 3) in BGR.
            top: How many labels, for a classifier.
        Raises:
            UnsupportedError: The manifest declares no picture pipeline, or no decoder.
            InputError: The picture can't be read.
        """
        from edge.vision import ImagePipeline
        from edge.vision.decoding import decode

        manifest = self.manifest
        if manifest.image is None or manifest.output is None:
            raise UnsupportedError(
                f"{self.name} does not say how to read pictures and what its outputs mean",
                hint="use infer(), or convert with a model.toml that has [image] and [output]",
            )
        output = manifest.output
        if top is not None:
            output = msgspec.structs.replace(output, top=top)
        tensor, geometry = ImagePipeline(manifest.image).prepare(picture)
        outputs = self.infer({manifest.image.input: tensor})
        return decode(outputs, output, geometry=geometry, labels=self.labels)

    def classify(self, picture: Picture, top: int = 5) -> tuple[Label, ...]:
        """The ``top`` most probable labels of a picture; see ``predict``."""
        if self.manifest.task != "classification":
            raise UnsupportedError(
                f"{self.name} does {self.manifest.task}, not classification", hint="use predict()"
            )
        labels: Any = self.predict(picture, top=top)
        return tuple(labels)

    def verify_goldens(self) -> list[GoldenResult]:
        """Run the bundle's goldens on this engine and compare with what the source answered."""
        results: list[GoldenResult] = []
        for number, golden in enumerate(self.manifest.goldens):
            tolerances = golden.tolerances.get(self.variant.id, {})
            inputs, expected = self._bundle.golden(golden)
            outputs = self._session.run(inputs)
            results += [
                _compare(number, name, outputs[name], expected[name], tolerance)
                for name, tolerance in tolerances.items()
            ]
        return results

    def close(self) -> None:
        """Finish what is queued and give the engine's memory back; a second call does nothing."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)
        self._session.close()
        self._bundle.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, feeds: Feeds, queue_ns: int) -> dict[str, Array]:
        start = time.perf_counter_ns()
        try:
            outputs = self._session.run(feeds)
        except BaseException:
            self.statistics.failure(time.perf_counter_ns() - start + queue_ns)
            raise
        self.statistics.success(time.perf_counter_ns() - start, queue_ns)
        return outputs

    def _run_queued(self, feeds: Feeds, queued_ns: int) -> dict[str, Array]:
        return self._run(feeds, time.perf_counter_ns() - queued_ns)

    def _worker(self) -> ThreadPoolExecutor:
        executor = self._executor
        if executor is not None:
            return executor
        with self._lock:
            if self._is_closed:
                raise UnavailableError(f"{self.name} is closed")
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"edge-{self.name}")
            return self._executor


def load(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
    fallback: Fallback = "warn",
) -> Model:
    """Load the best variant of a bundle for this machine; ``Model.choice`` says which and why.

    Args:
        engine: Only a variant of this engine.
        variant: Only the variant with this id.
        options: For the engine: ``device``, ``threads`` and what its backend takes besides.
        fallback: What to do when another variant or device than the bundle's first choice must
            serve: ``deny`` raises, ``warn`` logs, ``allow`` only records it.
    Raises:
        BundleError: The file is damaged or no bundle.
        UnavailableError: None of its variants can run here, or only by a fallback that is denied.
        EngineError: The engine refused the model.
    """
    bundle = open_bundle(path)
    try:
        return load_bundle(
            bundle, engine=engine, variant=variant, options=options, fallback=fallback
        )
    except BaseException:
        bundle.close()
        raise


def load_bundle(
    bundle: Bundle,
    *,
    engine: str | None = None,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
    fallback: Fallback = "warn",
) -> Model:
    """``load`` for an open bundle, which the model closes with itself."""
    manifest = bundle.manifest
    profile = _profile(manifest.profile)
    given = dict(options or {})
    device = given.pop("device", None)
    engines = {
        name: plugins.backend(name).availability()
        for name in {v.engine for v in manifest.variants} & set(plugins.stems("runtimes"))
    }
    choice = choose(manifest, profile, engines, engine=engine, variant=variant, device=device)
    _judge(manifest.name, choice, fallback)
    session = plugins.backend(choice.variant.engine).open(
        choice.variant,
        bundle.extract_variant(choice.variant.id),
        profile,
        {
            **profile.runtimes.options.get(choice.variant.engine, {}),
            **given,
            "device": choice.device,
        },
    )
    return Model(bundle, session, choice)


def _defaults(profile: DeviceProfile, variant: Variant) -> dict[str, Any]:
    return profile.runtimes.options.get(variant.engine, {})


def _profile(name: str) -> DeviceProfile:
    """The profile that a bundle was made for; this machine's own where it is not known here."""
    try:
        return load_profile(name)
    except ProfileError:
        log.warning("no device profile %s here; engine options come from the bundle alone", name)
        return load_profile("host")


def _judge(name: str, choice: Choice, fallback: Fallback) -> None:
    if not choice.is_fallback or fallback == "allow":
        return
    message = f"{name} runs as {choice.variant.id} on {choice.device}: {choice.reason}"
    if fallback == "deny":
        raise UnavailableError(message, hint="allow it with fallback='warn'")
    log.warning("%s", message)


def _compare(
    number: int, name: str, output: Array, expected: Array, tolerance: float
) -> GoldenResult:
    import numpy as np

    if output.shape != expected.shape:
        return GoldenResult(number, name, float("inf"), tolerance, passed=False)
    # Accumulated in float64: unsigned integers must not wrap around.
    difference = np.abs(output.astype(np.float64) - expected.astype(np.float64))
    error = float(np.max(difference, initial=0.0))
    return GoldenResult(number, name, error, tolerance, passed=error <= tolerance)
