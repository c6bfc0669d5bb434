"""Writes Q/DQ pairs into a graph where a placement wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from converters._quantization.products import drop_unused
from converters._tensorrt.half import HALF, SUFFIX, plain
from converters._tensorrt.network import DEQUANTIZE, QUANTIZE, Network
from converters._tensorrt.placement import Placement, weight_axis
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    from edge.core.tensor import Array

QUANTIZED, DEQUANTIZED, SCALE, ZERO = "/quantized", "/dequantized", "/scale", "/zero"

LEAST_HALF = 2.0**-14
"""The smallest FP16 number of full precision. Scales do not go below: a step of fewer bits is off
by up to a half."""

ALIKE = 2.0
"""Inputs of a Concat get one scale where the largest is at most this many times the smallest."""


class Format(msgspec.Struct, frozen=True):
    """A quantized type: its number in ONNX, and the largest magnitude it holds."""

    element: int
    largest: float


FORMATS = {"int8": Format(3, 127.0), "fp8": Format(17, 448.0)}
"""``TensorProto.INT8`` and ``FLOAT8E4M3FN``."""


def joined(network: Network, limits: Mapping[str, float]) -> dict[str, float]:
    """One limit for what a Concat puts together, so that INT8 goes through it as it is."""
    found = dict(limits)
    for node in network.nodes:
        names = [name for name in (*node.input, *node.output) if name in found]
        if node.op_type != "Concat" or len(names) < 2:
            continue
        largest = max(found[name] for name in names)
        if largest <= ALIKE * min(found[name] for name in names):
            found.update(dict.fromkeys(names, largest))
    return found


def write(
    model: ModelProto,
    placement: Placement,
    limits: Mapping[str, float],
    precision: str,
    *,
    has_weight_pairs: bool = False,
) -> ModelProto:
    """A copy of ``model`` with pairs before the inputs of layers, and dequantized weights.

    Args:
        limits: Float tensor -> magnitude that becomes the largest of the quantized type.
        has_weight_pairs: Keep the weights in float with a pair of their own, as TensorRT 8 wants
            them, not as quantized constants.
    """
    return _Writer(model, limits, FORMATS[precision], has_weight_pairs).run(placement)


class _Writer:
    def __init__(
        self, model: ModelProto, limits: Mapping[str, float], form: Format, has_weight_pairs: bool
    ) -> None:
        self._onnx = require("onnx", extra="convert")
        self._np = require("numpy", extra="convert")
        self._model = type(model)()
        self._model.CopyFrom(model)
        self._limits = limits
        self._form = form
        self._has_weight_pairs = has_weight_pairs
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes: list[NodeProto] = []
        self._added: dict[str, TensorProto] = {}
        self._pairs: set[str] = set()

    def run(self, placement: Placement) -> ModelProto:
        graph = self._model.graph
        for node in graph.node:
            if node.name in placement.layers:
                node.input[0] = self._pair(node.input[0])
                node.input[1] = self._weights(node)
            elif node.name in placement.skips:
                skip = placement.skips[node.name]
                for index, name in enumerate(node.input):
                    if plain(name) == skip:
                        node.input[index] = self._pair(name)
                        break
            self._nodes.append(node)
        nodes = list(self._nodes)
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(self._added.values())
        drop_unused(graph)  # also looks into branches, which read what lies outside
        return self._model

    def _pair(self, name: str) -> str:
        """The activation ``name`` after its pair, which all who read it share."""
        if name not in self._pairs:
            self._pairs.add(name)
            limit = self._limits[plain(name)]
            scale = self._scale(self._np.float32(limit), is_half=name.endswith(SUFFIX))
            self._emit(name, name, scale, {})
        return name + DEQUANTIZED

    def _weights(self, node: NodeProto) -> str:
        name: str = node.input[1]
        if name in self._pairs:
            return name + DEQUANTIZED
        self._pairs.add(name)
        tensor = self._constants[name]
        array = self._onnx.numpy_helper.to_array(tensor).astype(self._np.float32)
        axis = weight_axis(node, array.ndim)
        others = tuple(index for index in range(array.ndim) if index != axis % array.ndim)
        limit = self._np.abs(array).max(axis=others)
        scale = self._scale(limit, is_half=tensor.data_type == HALF)
        if self._has_weight_pairs:
            self._emit(name, name, scale, {"axis": axis})
            return name + DEQUANTIZED
        spread = scale.astype(self._np.float32).reshape(
            [-1 if index == axis % array.ndim else 1 for index in range(array.ndim)]
        )
        self._add(name + QUANTIZED, self._quantized(array / spread))
        self._constant_scale(name, scale)
        self._dequantize(name, {"axis": axis})
        return name + DEQUANTIZED

    def _scale(self, limit: Array, *, is_half: bool) -> Array:
        np = self._np
        scale = np.asarray(limit, np.float32) / self._form.largest
        least = LEAST_HALF if is_half else float(np.finfo(np.float32).tiny)
        found: Array = np.maximum(scale, least).astype(np.float16 if is_half else np.float32)
        return found

    def _quantized(self, steps: Array) -> TensorProto:
        kind = self._onnx.helper.tensor_dtype_to_np_dtype(self._form.element)
        values = self._np.clip(steps, -self._form.largest, self._form.largest)
        if self._form is FORMATS["int8"]:
            values = self._np.round(values)
        tensor: TensorProto = self._onnx.numpy_helper.from_array(values.astype(kind))
        return tensor

    def _emit(self, source: str, name: str, scale: Array, attributes: dict[str, Any]) -> None:
        self._constant_scale(name, scale)
        inputs = [source, name + SCALE, name + ZERO]
        self._nodes.append(
            self._onnx.helper.make_node(
                QUANTIZE, inputs, [name + QUANTIZED], f"{name}/{QUANTIZE}", **attributes
            )
        )
        self._dequantize(name, attributes)

    def _dequantize(self, name: str, attributes: dict[str, Any]) -> None:
        inputs = [name + QUANTIZED, name + SCALE, name + ZERO]
        self._nodes.append(
            self._onnx.helper.make_node(
                DEQUANTIZE, inputs, [name + DEQUANTIZED], f"{name}/{DEQUANTIZE}", **attributes
            )
        )

    def _constant_scale(self, name: str, scale: Array) -> None:
        self._add(name + SCALE, self._onnx.numpy_helper.from_array(scale))
        zeros = self._onnx.helper.make_tensor(
            "", self._form.element, scale.shape, [0] * int(scale.size)
        )
        self._add(name + ZERO, zeros)

    def _add(self, name: str, tensor: TensorProto) -> None:
        tensor.name = name
        self._added[name] = tensor
