"""``edge run``: what a bundle answers to pictures or tensors, once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge.cli import _output
from edge.cli._arguments import add_variant, keyring, positive
from edge.core.contracts import Placement
from edge.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.core.tensor import Array
    from edge.host import Model

HELP = "answer pictures, or tensors in an npz file, with a bundle"

TENSORS = ".npz"
_SHOWN_REGIONS = 8
_BAR_WIDTH = 24


class OutputFacts(msgspec.Struct, frozen=True):
    """An output in figures; ``min``, ``mean`` and ``max`` are absent from text and nothing."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    min: float | None = None
    mean: float | None = None
    max: float | None = None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one INPUT gave: a prediction when it is a picture whose task says how to read it."""

    input: str
    prediction: Any = None
    outputs: tuple[OutputFacts, ...] = ()


class Answers(msgspec.Struct, frozen=True):
    """What ``--json`` prints."""

    model: str
    version: str
    task: str
    variant: str
    engine: str
    choice: str
    placement: Placement
    answers: tuple[Answer, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_variant(parser)
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="INPUT",
        help="a picture, or an npz file of arrays named as the model's inputs",
    )
    parser.add_argument("--top", type=positive, metavar="K", help="how many labels to give")
    parser.add_argument("--output", type=Path, metavar="OUT.npz", help="save the raw outputs")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from edge.host import load

    paths: list[Path] = args.inputs
    if args.output and len(paths) > 1:
        raise InputError(f"--output takes the outputs of one INPUT, {len(paths)} are given")
    trust = keyring(args)
    with load(args.bundle, engine=args.engine, variant=args.variant, trust=trust) as model:
        answers = tuple(_answer(model, path, args.top, args.output) for path in paths)
        said = Answers(
            model=model.name,
            version=model.version,
            task=model.manifest.task,
            variant=model.variant.id,
            engine=model.engine,
            choice=model.choice,
            placement=model.placement,
            answers=answers,
        )
    if args.json:
        _output.print_json(said)
    else:
        _print(said)
    return 0


def _answer(model: Model, path: Path, top: int | None, save_as: Path | None) -> Answer:
    from edge.bundle import read_tensors, save_tensors

    if path.suffix == TENSORS:
        outputs = model.infer(read_tensors(path))
        prediction = None
    else:
        feeds, geometry = model.prepare(path)
        outputs = model.infer(feeds)
        is_read = model.manifest.task != "tensors"
        prediction = model.decode(outputs, geometry, top=top) if is_read else None
    if save_as is not None:
        save_tensors(save_as, outputs)
    return Answer(str(path), prediction, () if prediction is not None else _figures(outputs))


def _figures(outputs: Mapping[str, Array]) -> tuple[OutputFacts, ...]:
    return tuple(_figures_of(name, array) for name, array in outputs.items())


def _figures_of(name: str, array: Array) -> OutputFacts:
    if array.dtype.kind not in "biuf" or array.size == 0:
        dtype = "string" if array.dtype.kind in "OSU" else array.dtype.name
        return OutputFacts(name, dtype, array.shape)
    low, mean, high = (
        float(figure) for figure in (array.min(), array.mean(dtype="float64"), array.max())
    )
    return OutputFacts(name, array.dtype.name, array.shape, low, mean, high)


def _print(said: Answers) -> None:
    placement = said.placement
    _output.say()
    _output.title(
        f"{said.model} {said.version}",
        f"{said.variant} on {placement.actual} in {placement.precision}",
    )
    if placement.is_fallback:
        _output.title("Fallback", placement.reason)
    for answer in said.answers:
        _output.say()
        found, columns, rows, right = _table(answer, said.task)
        _output.title(answer.input, found)
        _output.table("", columns, rows, right=right)


_Table = tuple[str, list[str], list[tuple[Any, ...]], list[str]]


def _table(answer: Answer, task: str) -> _Table:
    """What stands behind the input's name, columns, rows, and the columns that hold figures."""
    if answer.prediction is None:
        return _outputs(answer.outputs)
    return _TABLES[task](answer.prediction)


def _outputs(outputs: tuple[OutputFacts, ...]) -> _Table:
    rows = [
        (
            facts.name,
            facts.dtype,
            " × ".join(map(str, facts.shape)) or "scalar",
            *("" if v is None else f"{v:.4g}" for v in (facts.min, facts.mean, facts.max)),
        )
        for facts in outputs
    ]
    return "", ["output", "dtype", "shape", "min", "mean", "max"], rows, ["min", "mean", "max"]


def _labels(labels: Any) -> _Table:
    rows = [(_output.percent_text(label.score), label.name, _bar(label.score)) for label in labels]
    return "", ["score", "label", ""], rows, ["score"]


def _boxes(boxes: Any) -> _Table:
    rows = [
        (
            _output.percent_text(box.score),
            box.name,
            *(f"{side:.0f}" for side in (box.x0, box.y0, box.x1, box.y1)),
        )
        for box in boxes
    ]
    found = f"{len(rows)} {'object' if len(rows) == 1 else 'objects'}"
    sides = ["x0", "y0", "x1", "y1"]
    return found, ["score", "label", *sides], rows, ["score", *sides]


def _mask(mask: Any) -> _Table:
    rows = [
        (_output.percent_text(region.share), region.name, _bar(region.share))
        for region in mask.regions[:_SHOWN_REGIONS]
    ]
    more = len(mask.regions) - _SHOWN_REGIONS
    left = f", {more} smaller regions not shown" if more > 0 else ""
    return f"{mask.width}×{mask.height}{left}", ["area", "label", ""], rows, ["area"]


def _bar(share: float) -> str:
    return "━" * round(share * _BAR_WIDTH)


_TABLES = {"classification": _labels, "detection": _boxes, "segmentation": _mask}
