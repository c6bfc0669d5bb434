"""Model -> checks -> converters -> measurement -> gate -> bundle."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edge.conversion.cache import StageCache
from edge.conversion.metrics import load_metric
from edge.conversion.pipeline import Conversion as Conversion
from edge.conversion.pipeline import Request, convert_model
from edge.conversion.plan import AUTO
from edge.conversion.repair import Limits as Limits
from edge.conversion.sources import title_of
from edge.conversion.workbench import Progress
from edge.core.errors import InputError
from edge.core.manifest import Name
from edge.core.profile import load_profile
from edge.core.spec import ModelSpec, load_spec

_Path = str | os.PathLike[str]


def convert(
    source: _Path,
    *,
    profile: str = "host",
    spec: _Path | None = None,
    precision: str = AUTO,
    engines: Sequence[str] = (),
    calibration: _Path | None = None,
    evaluation: _Path | None = None,
    max_drop: float | None = None,
    at_least: float | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch: int | None = None,
    name: str | None = None,
    version: str | None = None,
    output: _Path | None = None,
    limits: Limits | None = None,
    cache: StageCache | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Convert a model for a device, measure the result here, and write a bundle.

    Args:
        source: An ONNX file, an exported PyTorch program (``.pt2``), or ``module:function`` that
            returns a PyTorch module and example inputs.
        profile: The device; ``edge profiles`` lists them.
        spec: A ``model.toml`` with what the file can't say.
        precision: ``fp32``, ``bf16``, ``fp16``, ``int8``; ``auto`` tries all and keeps the best.
        engines: Only these of the profile's engines.
        calibration: Real samples for INT8: a folder of pictures, or an npz of tensors.
        evaluation: Labelled samples to measure accuracy on.
        max_drop: Points of the metric (without labels: of agreement) that may be lost.
        at_least: What the metric (without one: agreement in percent) must reach, in place of
            ``max_drop``.
        shapes: Fixed shape by input name.
        batch: Fixed size of the first axis of all inputs.
        name: Of the bundle; default is the spec's, else the file's stem.
        version: Of the bundle; default is the spec's.
        output: Default is ``<name>.edge`` here.
        limits: Of the repairs that are tried where INT8 loses too much.
        cache: Of earlier results; default is the user's own.
        progress: Called with a stage's title, how much of it is done, and how much there is.
    Raises:
        ModelError: The source can't be read, or the device can't take it.
        InputError: Data or options do not fit the model, or the output can't be written.
        UnsupportedError: Nothing can be made for this device here.
    """
    model = _named(load_spec(Path(spec)) if spec else ModelSpec(), source, name, version)
    folder = Path(spec).parent if spec else Path()
    request = Request(
        source=os.fspath(source),
        profile=load_profile(profile),
        spec=model,
        output=Path(output) if output else Path(f"{model.name}.edge"),
        precision=precision,
        engines=tuple(engines),
        calibration=Path(calibration) if calibration else None,
        evaluation=Path(evaluation) if evaluation else None,
        max_drop=max_drop,
        at_least=at_least,
        metric=load_metric(model.metric, folder) if model.metric else None,
        limits=limits or Limits(),
        shapes=dict(shapes or {}),
        batch=batch,
    )
    return convert_model(request, progress or _silent, cache or StageCache())


def _named(spec: ModelSpec, source: _Path, name: str | None, version: str | None) -> ModelSpec:
    """``spec`` with its name and version, which must fit paths, URLs and topics.

    Raises:
        InputError: One was given that does not fit.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", title_of(os.fspath(source))).strip("-.") or "model"
    named = msgspec.structs.replace(
        spec, name=name or spec.name or stem, version=version or spec.version
    )
    for given in (named.name, named.version):
        try:
            msgspec.convert(given, Name)
        except msgspec.ValidationError as error:
            raise InputError(
                f"{given!r} can not name a bundle or its version",
                hint="take letters, digits and . _ - , at most 100 of them",
            ) from error
    return named


def _silent(stage: str, done: int, total: int) -> None:
    pass
