"""Nodes that TensorRT's ONNX parser refuses, as far as its documentation tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from edge.core.contracts import Finding

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_REFUSED = (
    "Bernoulli BitShift BlackmanWindow Col2Im ConcatFromSequence ConvInteger DFT Det "
    "DynamicQuantizeLinear HammingWindow HannWindow ImageDecoder MatMulInteger "
    "MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional "
    "OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch SequenceAt "
    "SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap "
    "SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer StringSplit "
    "TfIdfVectorizer"
)
"""The standard operators marked N in
https://github.com/onnx/onnx-tensorrt/blob/release/10.3-GA/docs/operators.md, and those for text and
sequences that came later."""

REFUSED = frozenset(_REFUSED.split())

DOMAINS = ("", "ai.onnx")
TEXT, COMPLEX = (8,), (14, 15)
"""``TensorProto.DataType``."""


def findings(model: ModelProto) -> list[Finding]:
    """Errors for nodes that are refused, a word on what is computed in another type."""
    found: list[Finding] = []
    refused = [n for n in _nodes(model.graph) if n.op_type in REFUSED or n.domain not in DOMAINS]
    if refused:
        kinds = ", ".join(dict.fromkeys(_operator(node) for node in refused))
        found.append(
            Finding(
                "error",
                f"TensorRT's parser takes no {kinds}",
                hint="export the model without them, or choose another engine with --engine",
                nodes=tuple(node.name or node.op_type for node in refused),
            )
        )
    kinds_of_io = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.input, *model.graph.output)
    }
    for name, kind in kinds_of_io.items():
        if kind in (*TEXT, *COMPLEX):
            what = "text" if kind in TEXT else "complex numbers"
            found.append(
                Finding("error", f"tensor {name!r} holds {what}, which TensorRT takes not")
            )
    doubles = [tensor.name for tensor in model.graph.initializer if tensor.data_type == 11]
    if doubles:
        message = f"{len(doubles)} float64 constants are computed in float32"
        found.append(Finding("warning", message, nodes=tuple(doubles)))
    return found


def _operator(node: NodeProto) -> str:
    return node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            inner: Iterable[GraphProto] = [attribute.g] if attribute.HasField("g") else ()
            for subgraph in (*inner, *attribute.graphs):
                yield from _nodes(subgraph)
