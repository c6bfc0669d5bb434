"""``edge inspect``: what a bundle or a model file holds."""

from __future__ import annotations

import argparse
import math
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.cli import _compare, _output
from edge.core.errors import InputError
from edge.core.manifest import Manifest, Variant
from edge.core.spec import ImageSpec
from edge.core.tensor import TensorSpec

if TYPE_CHECKING:
    from onnx import GraphProto, TensorProto

    from edge.bundle import Bundle

HELP = "show what a bundle or an ONNX file holds, or where two forms of a model differ"

_SHOWN_OPS = 12
_SHOWN_LABELS = 4


class BundleFacts(msgspec.Struct, frozen=True):
    """What ``--json`` prints of a bundle. ``digest`` is the SHA-256 of its manifest."""

    path: str
    size_bytes: int
    digest: str
    signature: str
    labels: tuple[str, ...]
    manifest: Manifest


class OnnxFacts(msgspec.Struct, frozen=True):
    """What ``--json`` prints of a model; ``parameters`` counts numbers in weights by dtype."""

    path: str
    size_bytes: int
    ir: int
    opsets: dict[str, int]
    producer: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ops: dict[str, int]
    parameters: dict[str, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="a bundle or an ONNX file"
    )
    _compare.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from edge.cli._main import EXIT_DONE

    if (args.file is None) == (args.compare is None):
        raise InputError("edge inspect takes a FILE, or --compare A B", hint="edge inspect --help")
    if args.compare:
        return _compare.run(args)
    path: Path = args.file
    if not path.is_file():
        raise InputError(f"can not inspect {path}: there is no such file")
    facts = _bundle_facts(path) if _is_bundle(path) else _onnx_facts(path)
    if args.json:
        _output.print_json(facts)
    elif isinstance(facts, BundleFacts):
        _print_bundle(facts)
    else:
        _print_onnx(facts)
    return EXIT_DONE


def _is_bundle(path: Path) -> bool:
    return path.suffix == ".edge" or (path.suffix != ".onnx" and zipfile.is_zipfile(path))


def signature_text(bundle: Bundle) -> str:
    if bundle.signed_by:
        return f"by {bundle.signed_by}"
    return "present, not checked" if bundle.has_signature else "none: the bundle is unsigned"


def _bundle_facts(path: Path) -> BundleFacts:
    from edge.bundle import open_bundle

    with open_bundle(path) as bundle:
        return BundleFacts(
            path=str(path),
            size_bytes=path.stat().st_size,
            digest=bundle.digest,
            signature=signature_text(bundle),
            labels=bundle.labels,
            manifest=bundle.manifest,
        )


def _print_bundle(facts: BundleFacts) -> None:
    manifest = facts.manifest
    _output.say()
    _output.title(f"{manifest.name} {manifest.version}", f"{manifest.task} for {manifest.profile}")
    _output.facts(
        [
            ("size", f"{_output.size_text(facts.size_bytes)}, every digest checked"),
            ("digest", facts.digest),
            ("signature", facts.signature),
            ("image", image_text(manifest.image) if manifest.image else ""),
            ("output", manifest.output.decode if manifest.output else ""),
            ("labels", _labels_text(facts.labels)),
            ("goldens", len(manifest.goldens) or "none"),
            ("made with", manifest.created_with),
        ]
    )
    _print_variants(manifest.variants)
    for title, variant in _distinct_tensors(manifest.variants):
        _print_tensors(title, variant.inputs, variant.outputs)


def image_text(image: ImageSpec) -> str:
    """The picture pipeline in one line, in the order in which it is applied."""
    steps = []
    if image.resize:
        sizes = msgspec.structs.asdict(image.resize).items()
        steps += [
            f"resize {name} {_by(value)}" if name != "exact" else f"resize {_by(value)}"
            for name, value in sizes
            if value is not None
        ]
    steps += [f"crop {_by(image.crop)}"] if image.crop else []
    if image.pad:
        steps.append(f"pad {image.pad.anchor} to {_by(image.pad.size)} with {image.pad.value:g}")
    steps.append(f"{image.color} {image.layout}")
    normalize = f"× {image.scale:.6g}" if image.scale != 1 else ""
    normalize += f" - {_list(image.mean)}" if any(image.mean) else ""
    normalize += f" ÷ {_list(image.std)}" if set(image.std) != {1.0} else ""
    steps += [normalize.strip()] if normalize else []
    return f"{image.input} ← " + ", ".join(steps)


def _by(size: int | tuple[int, int]) -> str:
    return str(size) if isinstance(size, int) else "×".join(map(str, size))


def _list(values: tuple[float, ...]) -> str:
    text = " ".join(f"{value:g}" for value in values)
    return text if len(values) == 1 else f"({text})"


def _labels_text(labels: tuple[str, ...]) -> str:
    shown = ", ".join(labels[:_SHOWN_LABELS])
    return f"{len(labels)}: {shown}{', …' if len(labels) > _SHOWN_LABELS else ''}" if labels else ""


def _print_variants(variants: Iterable[Variant]) -> None:
    variants = tuple(variants)
    metrics = dict.fromkeys(variant.metric.name for variant in variants if variant.metric)
    columns = ["variant", "engine", "precision", "size", *metrics, "agree", "p50"]
    rows = []
    for variant in variants:
        metric = variant.metric
        rows.append(
            [
                ("● " if variant.chosen else "  ") + variant.id,
                variant.engine,
                variant.precision,
                _output.size_text(variant.size_bytes),
                *(f"{metric.value:.2f}" if metric and metric.name == m else "" for m in metrics),
                "" if variant.agreement is None else _output.percent_text(variant.agreement),
                _output.ms_text(variant.latency_ms.p50) if variant.latency_ms else "",
            ]
        )
    _output.say()
    _output.table("Variants (● chosen at conversion)", columns, rows, right=columns[3:])
    machines = {variant.measured_on for variant in variants if variant.measured_on}
    _output.facts(("measured on", machine) for machine in sorted(machines))
    for variant in variants:
        needs = ", ".join(f"{name} {value}" for name, value in variant.requires.items())
        notes = [f"needs {needs}"] if needs else []
        _output.facts((variant.id, note) for note in (*notes, *variant.notes))


def _distinct_tensors(variants: Iterable[Variant]) -> list[tuple[str, Variant]]:
    """One variant for each set of tensors, with a title that names those which share it."""
    groups: dict[tuple[tuple[TensorSpec, ...], ...], list[Variant]] = {}
    for variant in variants:
        groups.setdefault((variant.inputs, variant.outputs), []).append(variant)
    if len(groups) == 1:
        return [("Tensors", next(iter(groups.values()))[0])]
    return [
        (f"Tensors of {', '.join(variant.id for variant in group)}", group[0])
        for group in groups.values()
    ]


def _print_tensors(title: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> None:
    rows = [
        (kind, spec.name, spec.dtype, spec.shape_text)
        for kind, specs in (("in", inputs), ("out", outputs))
        for spec in specs
    ]
    _output.say()
    _output.table(title, ["", "tensor", "dtype", "shape"], rows)


def _onnx_facts(path: Path) -> OnnxFacts:
    from edge.conversion import graph, source

    model = source.read_model(path)
    graph.drop_initializer_inputs(model)
    return OnnxFacts(
        path=str(path),
        size_bytes=path.stat().st_size,
        ir=model.ir_version,
        opsets={opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        inputs=graph.tensor_specs(model.graph.input),
        outputs=graph.tensor_specs(model.graph.output),
        ops=graph.op_counts(model),
        parameters=_parameters(model.graph),
    )


def _parameters(graph: GraphProto) -> dict[str, int]:
    from onnx.helper import tensor_dtype_to_np_dtype

    counts: Counter[str] = Counter()
    for tensor in _weights(graph):
        counts[str(tensor_dtype_to_np_dtype(tensor.data_type))] += math.prod(tensor.dims)
    return dict(counts.most_common())


def _weights(graph: GraphProto) -> Iterable[TensorProto]:
    """Initializers and tensors of Constant nodes, also those in the branches of a graph."""
    from edge.conversion.graph import all_nodes

    yield from graph.initializer
    for node in all_nodes(graph):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                yield attribute.t
            for subgraph in (attribute.g, *attribute.graphs):
                yield from subgraph.initializer


def _print_onnx(facts: OnnxFacts) -> None:
    _output.say()
    _output.title(Path(facts.path).name, f"ONNX, {_output.size_text(facts.size_bytes)}")
    total = sum(facts.parameters.values())
    shares = ", ".join(f"{count:,} {dtype}" for dtype, count in facts.parameters.items())
    _output.facts(
        [
            ("opset", ", ".join(f"{domain} {v}" for domain, v in facts.opsets.items())),
            ("IR", facts.ir),
            ("producer", facts.producer),
            ("parameters", f"{total:,}" if len(facts.parameters) == 1 else f"{total:,}: {shares}"),
            ("operators", f"{sum(facts.ops.values())} nodes: {_ops_text(facts.ops)}"),
        ]
    )
    _print_tensors("Tensors", facts.inputs, facts.outputs)


def _ops_text(ops: dict[str, int]) -> str:
    shown = [f"{op}×{count}" for op, count in list(ops.items())[:_SHOWN_OPS]]
    more = len(ops) - len(shown)
    return ", ".join(shown) + (f", and {more} more kinds" if more > 0 else "")
