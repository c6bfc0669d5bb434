"""Mean and peak per channel of tensors inside an ONNX graph, over samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from converters._quantization.remembered import Remembered, key_of
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge.core.tensor import Array, Feeds


class Channels(NamedTuple):
    """Per tensor, one value for each index of axis 1."""

    means: dict[str, Array]
    peaks: dict[str, Array]


_known: Remembered[Channels] = Remembered()


def channel_statistics(
    model: ModelProto, tensors: dict[str, int], samples: Sequence[Feeds]
) -> Channels:
    """Run ``model`` and reduce ``tensors`` over all axes but the second.

    Args:
        tensors: Name -> rank, 2 or more.
    """
    if not tensors:
        return Channels({}, {})
    key = key_of(model, samples, *tensors)
    return _known.get(key, lambda: _measure(model, tensors, samples))


def _measure(model: ModelProto, tensors: dict[str, int], samples: Sequence[Feeds]) -> Channels:
    np = require("numpy", extra="convert")
    session, names = _reducing_session(model, tensors)
    sums: list[Any] = []
    peaks: list[Any] = []
    count = 0
    for feeds in samples:
        found = session.run(names, dict(feeds))
        mean, low, high = found[0::3], found[1::3], found[2::3]
        peak = [np.maximum(-a, b) for a, b in zip(low, high, strict=True)]
        sums = [a + b for a, b in zip(sums, mean, strict=True)] if count else mean
        peaks = [np.maximum(a, b) for a, b in zip(peaks, peak, strict=True)] if count else peak
        count += 1
    means = [np.asarray(total, np.float64) / count for total in sums]
    return Channels(dict(zip(tensors, means, strict=True)), dict(zip(tensors, peaks, strict=True)))


def _reducing_session(model: ModelProto, tensors: dict[str, int]) -> tuple[Any, list[str]]:
    onnx = require("onnx", extra="convert")
    copy = type(model)()
    copy.CopyFrom(model)
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    names = []
    for tensor, rank in tensors.items():
        axes = [axis for axis in range(rank) if axis != 1]
        for op in ("ReduceMean", "ReduceMin", "ReduceMax"):
            name = f"{tensor}/{op}"
            inputs, attributes = [tensor], {"axes": axes}
            if opset >= 18:  # axes became an input
                given = onnx.numpy_helper.from_array(
                    require("numpy", extra="convert").array(axes, "int64"), f"{name}/axes"
                )
                copy.graph.initializer.append(given)
                inputs, attributes = [tensor, given.name], {}
            copy.graph.node.append(
                onnx.helper.make_node(op, inputs, [name], keepdims=0, **attributes)
            )
            copy.graph.output.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
            names.append(name)
    return open_session(copy.SerializeToString()), names


def with_outputs(model: ModelProto, tensors: list[str]) -> ModelProto:
    """A copy of ``model`` that gives ``tensors`` out as well."""
    onnx = require("onnx", extra="convert")
    copy = type(model)()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in tensors
        if name not in known
    )
    return copy


def open_session(model: bytes, entries: Mapping[str, str] | None = None) -> Any:
    """An ONNX Runtime session on the CPU that keeps quiet; ``entries`` are for its options."""
    onnxruntime = require("onnxruntime", extra="convert")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
