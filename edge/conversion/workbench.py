"""Makes variants and judges them; what was done before is taken from the stage cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge.conversion.cache import StageCache
from edge.conversion.goldens import FOLDER, make_goldens
from edge.conversion.latency import Timings, measure_latency
from edge.conversion.measurement import Reference, Scores, measure, sqnr_db
from edge.conversion.numerics import layer_errors
from edge.conversion.opening import Opened, open_source, open_variants, runnable
from edge.conversion.report import LayerError
from edge.conversion.sampling import Sampling
from edge.conversion.source import PreparedSource
from edge.core.contracts import Converter, ConvertRequest, Finding, Samples, Sensitivity
from edge.core.errors import EdgeError
from edge.core.machine import machine
from edge.core.manifest import Golden, Variant
from edge.core.profile import DeviceProfile
from edge.core.spec import ModelSpec

if TYPE_CHECKING:
    from edge.conversion.plan import Step
    from edge.core.tensor import Feeds

Progress = Callable[[str, int, int], None]
"""Called with a stage's title, how much of it is done, and how much there is."""

SOURCE = "source"
VARIANTS = "variants"
LAYER_SAMPLES = 8


class Judged(msgspec.Struct, frozen=True):
    """What one form of the model reached; without ``scores``, ``note`` says why.

    ``sqnr_db`` is how near its outputs are to the source's on the tuning samples. What
    ``is_emulated`` was not computed by the variant's own engine.
    """

    scores: Scores | None = None
    sqnr_db: float | None = None
    placement: dict[str, float] = {}
    note: str = ""
    is_emulated: bool = False


class Job(msgspec.Struct, frozen=True):
    """What is converted, for which device, and on which samples it is judged."""

    prepared: PreparedSource
    profile: DeviceProfile
    spec: ModelSpec
    sampling: Sampling


class Workbench:
    """One job; files of variants lie in ``parts``/variants/<id>/."""

    def __init__(self, job: Job, parts: Path, cache: StageCache) -> None:
        self.prepared = job.prepared
        self.profile = job.profile
        self.spec = job.spec
        self.sampling = job.sampling
        self.parts = parts
        self._cache = cache
        self._stack = ExitStack()
        self._source: Reference | None = None

    def __enter__(self) -> Workbench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self, converter: Converter) -> tuple[Finding, ...]:
        """What the engine of ``converter`` will not take, or takes with a loss."""
        key = {"model": self.prepared.digest, "converter": converter.name, **self._device_key()}

        def ask() -> tuple[Finding, ...]:
            return tuple(converter.check(self.prepared.path, self.profile))

        return self._cache.value("check", key, tuple[Finding, ...], ask)

    def make(self, step: Step, progress: Progress) -> Variant:
        """Convert the model by one step.

        Raises:
            EdgeError: The converter refuses, with its reason.
        """
        samples = None
        if step.takes_samples and self.sampling.calibration is not None:
            samples = _Counted(self.sampling.calibration.samples, step.id, progress)
        into = self.folder(step.id)
        into.mkdir(parents=True)

        def convert(folder: Path) -> Variant:
            made = step.converter.convert(self._request(step, samples), folder)
            return msgspec.structs.replace(made, id=step.id)

        key = {"model": self.prepared.digest, **self._step_key(step)}
        try:
            variant = self._cache.files("convert", key, Variant, into, convert)
        except EdgeError:
            shutil.rmtree(into)
            raise
        if samples is not None:  # a quantizer may stop before the last one
            samples.finish()
        return variant

    def copy(self, variant: Variant, original: Variant) -> Variant:
        """Lay down ``variant``, which has the files of ``original``."""
        shutil.copytree(self.folder(original.id), self.folder(variant.id))
        return variant

    def folder(self, variant_id: str) -> Path:
        return self.parts / VARIANTS / variant_id

    def judge(self, variant: Variant | None, progress: Progress) -> Judged:
        """Accuracy, agreement and closeness of a variant, or of the source itself."""
        key = {**self._form_key(variant), **self._data_key()}
        return self._cache.value("judge", key, Judged, lambda: self._judge(variant, progress))

    def sensitivities(self, step: Step, variant: Variant) -> tuple[Sensitivity, ...]:
        """Which operators of a quantized variant bring in how much of its error."""
        if self.sampling.calibration is None:
            return ()
        key = {**self._form_key(variant), **self._step_key(step)}
        request = self._request(step, self.sampling.calibration.samples)

        def rank() -> tuple[Sensitivity, ...]:
            return step.converter.sensitivities(request, variant, self.folder(variant.id))

        return self._cache.value("sensitivities", key, tuple[Sensitivity, ...], rank)

    def time(self, variants: Sequence[Variant]) -> Timings:
        """Latency of the source and ``variants``, side by side."""
        key = {
            "variants": [self._form_key(variant) for variant in variants],
            "data": self.sampling.measured.digest,
            "machine": machine(),
        }

        def run() -> Timings:
            feeds = next(iter(self.sampling.measured)).feeds
            with self._opened(variants) as opened:
                sessions = {SOURCE: self._reference().session, **opened.sessions}
                for emulated in opened.emulated:
                    del sessions[emulated]
                return measure_latency(sessions, feeds)

        return self._cache.value("latency", key, Timings, run)

    def layers(self, variant: Variant) -> tuple[LayerError, ...]:
        """Errors by layer, on the tuning samples."""
        key = {**self._form_key(variant), "data": self.sampling.tuning.digest}

        def compare() -> tuple[LayerError, ...]:
            samples = list(islice(self.sampling.tuning.samples, LAYER_SAMPLES))
            with runnable(variant, self.folder(variant.id)) as form:
                return layer_errors(self.prepared.path, form.variant, form.folder, samples)

        return self._cache.value("layers", key, tuple[LayerError, ...], compare)

    def goldens(self, variants: Sequence[Variant]) -> tuple[Golden, ...]:
        """Write goldens that serve all ``variants``."""
        key = {
            "variants": [self._form_key(variant) for variant in variants],
            "data": self.sampling.measured.digest,
        }

        def write(folder: Path) -> tuple[Golden, ...]:
            with self._opened(variants) as opened:
                source = self._reference().session
                return make_goldens(self.sampling.measured, source, opened.sessions, folder)

        into = self.parts / FOLDER
        into.mkdir()
        return self._cache.files("goldens", key, tuple[Golden, ...], into, write)

    def _judge(self, variant: Variant | None, progress: Progress) -> Judged:
        name = variant.id if variant else SOURCE

        def advance(done: int, total: int) -> None:
            progress(f"Measuring {name}", done, total)

        reference = self._reference()
        if variant is None:
            return Judged(measure(reference.session, reference, advance))
        with self._opened([variant]) as opened:
            session = opened.sessions.get(name)
            note = opened.notes.get(name, "")
            if session is None:
                return Judged(note=note)
            scores = measure(session, reference, advance)
            is_emulated = name in opened.emulated
            return Judged(
                scores,
                sqnr_db(reference.session, session, self.sampling.tuning),
                {} if is_emulated else session.placement.shares,
                "; ".join(filter(None, (note, scores.note))),
                is_emulated,
            )

    def _reference(self) -> Reference:
        """The source, opened when it is first asked for."""
        if self._source is None:
            session = self._stack.enter_context(open_source(self.prepared))
            self._source = Reference(session, self.sampling, self.spec)
        return self._source

    def _opened(self, variants: Sequence[Variant]) -> AbstractContextManager[Opened]:
        return open_variants(variants, self.profile, self.parts / VARIANTS)

    def _request(self, step: Step, samples: Samples | None) -> ConvertRequest:
        return ConvertRequest(
            self.prepared.path,
            self.profile,
            step.precision,
            calibration=samples,
            options=step.recipe.options,
            build=self.spec.build,
        )

    def _step_key(self, step: Step) -> dict[str, Any]:
        calibration = self.sampling.calibration if step.takes_samples else None
        return {
            "converter": step.converter.name,
            "id": step.id,
            "precision": step.precision,
            "options": step.recipe.options,
            "build": self.spec.build,
            "calibration": calibration.digest if calibration else "",
            **self._device_key(),
        }

    def _device_key(self) -> dict[str, Any]:
        """What converters read of a profile, so that devices that agree in it share their work."""
        profile = self.profile
        return {
            "arch": profile.device.arch,
            "cpu": profile.compute.cpu if profile.device.probed else "",
            "onnx": profile.onnx,
            "legal": profile.precision.legal,
            "shapes": profile.shapes,
            "runtimes": profile.runtimes.options,
            "engines": profile.compute.engines,
            "tensorrt": profile.software.tensorrt,
        }

    def _form_key(self, variant: Variant | None) -> dict[str, Any]:
        """All that an answer of a variant depends on, and of the source it is compared with."""
        key: dict[str, Any] = {"source": self.prepared.sha256, "model": self.prepared.digest}
        if variant is not None:
            key |= {
                "id": variant.id,
                "engine": variant.engine,
                "files": variant.files,
                "options": variant.options,
                "runtime": self.profile.runtimes.options.get(variant.engine, {}),
            }
        return key

    def _data_key(self) -> dict[str, Any]:
        return {
            "measured": self.sampling.measured.digest,
            "tuning": self.sampling.tuning.digest,
            "task": self.sampling.task,
            "labels": self.sampling.labels,
            "declared": (self.spec.task, self.spec.image, self.spec.output),
            "metric": self.sampling.metric.digest if self.sampling.metric else "",
            "machine": machine(),
        }


class _Counted:
    """Samples that report how far a converter has gone through them."""

    def __init__(self, samples: Samples, title: str, progress: Progress) -> None:
        self._samples = samples
        self._title = f"Calibrating {title}"
        self._progress = progress

    def __len__(self) -> int:
        return len(self._samples)

    def finish(self) -> None:
        self._progress(self._title, len(self), len(self))

    def __iter__(self) -> Iterator[Feeds]:
        for number, feeds in enumerate(self._samples, 1):
            self._progress(self._title, number, len(self))
            yield feeds
