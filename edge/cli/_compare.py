"""``edge inspect --compare A B``: at which layers B's values leave A's."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.cli import _arguments, _output
from edge.core.errors import InputError

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.conversion.numerics import Comparison, LayerRow, ModelForm
    from edge.core.contracts import Samples
    from edge.core.tensor import Feeds, TensorSpec

SAMPLES = 16
_SPARKS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 48


class LayerFacts(msgspec.Struct, frozen=True):
    """A layer of ``--json``; ``fall_db`` is against the worst layer that it reads."""

    name: str
    op: str
    sqnr_db: float
    cosine: float
    fall_db: float | None
    is_output: bool


class ComparisonFacts(msgspec.Struct, frozen=True):
    """What ``--json`` prints: all layers in execution order, and where it broke, if at one."""

    reference: str
    compared: str
    samples: str
    worst: str
    broke_at: str | None
    skipped: int
    layers: tuple[LayerFacts, ...]


class _Operand:
    """``A`` or ``B``: a form of a model, what it is called, and its bundle, if it has one."""

    def __init__(self, title: str, form: ModelForm, bundle: Bundle | None) -> None:
        self.title = title
        self.form = form
        self.bundle = bundle

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.form.variant.inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="at which layers B's values leave A's; each is an ONNX file, a bundle (its chosen "
        "variant) or BUNDLE:VARIANT",
    )
    parser.add_argument(
        "--calib",
        type=Path,
        metavar="DIR|NPZ",
        help="samples to compare on (default: the bundle's goldens, else noise)",
    )
    parser.add_argument(
        "--spec", type=Path, metavar="MODEL.toml", help="how pictures of --calib become tensors"
    )
    parser.add_argument(
        "--worst",
        type=_arguments.positive,
        default=10,
        metavar="N",
        help="how many layers to list (default: 10)",
    )


def run(args: argparse.Namespace) -> int:
    from edge.cli._main import EXIT_DONE
    from edge.conversion.numerics import compare

    with ExitStack() as stack:
        reference, other = (_open(text, stack) for text in args.compare)
        samples, title = _samples(args, reference, other)
        comparison = compare(reference.form, other.form, islice(samples, SAMPLES))
    facts = _facts(comparison, reference.title, other.title, title)
    if args.json:
        _output.print_json(facts)
    else:
        _print(facts, args.worst)
    return EXIT_DONE


def _open(text: str, stack: ExitStack) -> _Operand:
    """A path that exists is one, colon or not; else what follows the last colon is a variant."""
    path, variant_id = Path(text), ""
    if not path.exists() and ":" in text:
        before, _, variant_id = text.rpartition(":")
        path = Path(before)
    if not path.is_file():
        raise InputError(f"can not compare {text}: there is no such file")
    if path.suffix == ".edge":
        return _open_bundle(path, variant_id, stack)
    if variant_id:
        raise InputError(f"{path} has no variants", hint="only a bundle does: BUNDLE:VARIANT")
    return _Operand(path.name, _onnx_form(path), None)


def _open_bundle(path: Path, variant_id: str, stack: ExitStack) -> _Operand:
    from edge.bundle import open_bundle
    from edge.conversion.numerics import ModelForm

    bundle = stack.enter_context(open_bundle(path))
    variants = bundle.manifest.variants
    chosen = next((variant for variant in variants if variant.chosen), variants[0])
    variant = bundle.variant(variant_id) if variant_id else chosen
    title = f"{path.name}:{variant.id}"
    return _Operand(title, ModelForm(variant, bundle.extract_variant(variant.id)), bundle)


def _onnx_form(path: Path) -> ModelForm:
    from edge.conversion import graph, source
    from edge.conversion.numerics import ModelForm, onnx_form

    model = source.read_model(path)
    graph.drop_initializer_inputs(model)
    form = onnx_form(path)
    inputs = graph.tensor_specs(model.graph.input)
    return ModelForm(msgspec.structs.replace(form.variant, inputs=inputs), form.folder)


def _samples(
    args: argparse.Namespace, reference: _Operand, other: _Operand
) -> tuple[Iterator[Feeds], str]:
    """What was asked for, else the goldens of a bundle, else noise; and what to call it."""
    bundles = [operand.bundle for operand in (reference, other) if operand.bundle is not None]
    if args.calib is not None:
        samples = _dataset(args, reference, bundles)
        return iter(samples), f"{min(len(samples), SAMPLES)} samples of {args.calib.name}"
    for bundle in bundles:
        goldens = bundle.manifest.goldens
        if goldens:
            feeds = [bundle.golden(golden)[0] for golden in goldens[:SAMPLES]]
            return iter(feeds), f"{len(feeds)} goldens of {bundle.path.name}"
    return _noise(reference), f"{SAMPLES} samples of noise, for want of goldens or --calib"


def _dataset(args: argparse.Namespace, reference: _Operand, bundles: Sequence[Bundle]) -> Samples:
    from edge.conversion.datasets import open_dataset
    from edge.core.spec import ModelSpec, load_spec

    if args.spec is not None:
        spec = load_spec(args.spec)
    else:
        image = next((b.manifest.image for b in bundles if b.manifest.image), None)
        spec = ModelSpec(image=image)
    return open_dataset(args.calib, "calib", spec, reference.inputs, limit=SAMPLES).samples


def _noise(reference: _Operand) -> Iterator[Feeds]:
    from edge.conversion.sampling import NOISE_AXIS
    from edge.conversion.source import noise

    for seed in range(SAMPLES):
        yield noise(reference.inputs, 1, NOISE_AXIS, seed=seed)


def _facts(comparison: Comparison, reference: str, other: str, samples: str) -> ComparisonFacts:
    broke = comparison.broke_at
    return ComparisonFacts(
        reference=reference,
        compared=other,
        samples=samples,
        worst=min(comparison.rows, key=lambda row: row.error.sqnr_db).error.name,
        broke_at=broke.error.name if broke else None,
        skipped=comparison.skipped,
        layers=tuple(_layer(row) for row in comparison.rows),
    )


def _layer(row: LayerRow) -> LayerFacts:
    error = row.error
    return LayerFacts(error.name, error.op, error.sqnr_db, error.cosine, row.fall_db, row.is_output)


def _print(facts: ComparisonFacts, count: int) -> None:
    layers = facts.layers
    in_order = sorted(layers, key=lambda layer: layer.sqnr_db)
    _output.say()
    _output.title(facts.compared, f"against {facts.reference}")
    _output.facts(
        [
            *(("output", _figures(layer)) for layer in layers if layer.is_output),
            ("worst", _figures(in_order[0])),
            ("broke at", _broke(facts)),
            ("by depth", _sparkline(layers)),
            ("samples", facts.samples),
            ("skipped", f"{facts.skipped} layers without a counterpart" if facts.skipped else ""),
        ]
    )
    _output.say()
    columns = ["layer", "op", "SQNR", "cosine", "fall"]
    rows = [
        (
            layer.name,
            layer.op,
            f"{layer.sqnr_db:.1f} dB",
            f"{layer.cosine:.5f}",
            "" if layer.fall_db is None else f"{layer.fall_db:.1f}",
        )
        for layer in in_order[:count]
    ]
    shown = f"The worst {len(rows)} of {len(layers)} layers"
    _output.table(shown, columns, rows, right=columns[2:])
    _output.title("", "fall: by how many dB it is worse than the worst that it reads")


def _figures(layer: LayerFacts) -> str:
    return f"{layer.sqnr_db:.1f} dB, cosine {layer.cosine:.5f}: {layer.op} {layer.name}"


def _broke(facts: ComparisonFacts) -> str:
    for layer in facts.layers:
        if layer.name == facts.broke_at:
            fall = f", {layer.fall_db:.1f} under what it reads" if layer.fall_db else ""
            return f"{layer.op} {layer.name}, {layer.sqnr_db:.1f} dB{fall}"
    return "no single layer: the error grows little by little"


def _sparkline(layers: Sequence[LayerFacts]) -> str:
    """SQNR from the first layer to the last; a column is the worst of those that share it."""
    width = min(_SPARK_WIDTH, len(layers))
    columns = [
        min(
            layer.sqnr_db
            for layer in layers[i * len(layers) // width :][: -(-len(layers) // width)]
        )
        for i in range(width)
    ]
    low, high = min(columns), max(columns)
    step = (high - low) / (len(_SPARKS) - 1) or 1.0
    bars = "".join(_SPARKS[-1 - round((high - value) / step)] for value in columns)
    return f"{bars} {low:.0f} to {high:.0f} dB"
