"""How large the values of a graph's tensors are on real samples, and what scale suits them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from converters._quantization.statistics import open_session
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge.core.tensor import Array, Feeds

BINS = 2048
LOOKED_AT = 2**16
"""Values of a tensor per sample that go into its histogram, spread evenly; its peak is of all."""

CANDIDATES = 64
LEVELS = 127.0
"""Symmetric INT8 has as many steps on either side of zero."""


class Magnitudes:
    """Histograms of |x| by tensor, from zero to the largest seen."""

    def __init__(self, peaks: dict[str, float], counts: dict[str, Array]) -> None:
        self.peaks = peaks
        self._counts = counts

    def holding(self, percent: float) -> dict[str, float]:
        """By tensor, the magnitude below which ``percent`` of the values lie."""
        if percent >= 100.0:
            return dict(self.peaks)
        np = require("numpy", extra="convert")
        found: dict[str, float] = {}
        for name, counts in self._counts.items():
            share = np.cumsum(counts) / max(1, counts.sum())
            index = int(np.searchsorted(share, percent / 100.0))
            found[name] = self.peaks[name] * min(index + 1, BINS) / BINS
        return found

    def least_error(self) -> dict[str, float]:
        """By tensor, the magnitude at which clipping and rounding cost least together."""
        np = require("numpy", extra="convert")
        centres = (np.arange(BINS) + 0.5) / BINS
        found: dict[str, float] = {}
        for name, counts in self._counts.items():
            errors = []
            limits = np.linspace(1.0 / CANDIDATES, 1.0, CANDIDATES)
            for limit in limits:
                step = limit / LEVELS
                rounded = np.minimum(np.round(centres / step) * step, limit)
                errors.append(float(counts @ (rounded - centres) ** 2))
            found[name] = self.peaks[name] * float(limits[int(np.argmin(errors))])
        return found


def peaks(model: ModelProto, tensors: Iterable[str], samples: Iterable[Feeds]) -> dict[str, float]:
    """The largest magnitude that each of the float ``tensors`` reaches; it is reduced inside the
    engine, so that no tensor comes out whole."""
    onnx = require("onnx", extra="convert")
    names = list(dict.fromkeys(tensors))
    copy = type(model)()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for index, name in enumerate(names):
        for op in ("ReduceMax", "ReduceMin"):
            out = f"{op}/{index}"
            copy.graph.node.append(onnx.helper.make_node(op, [name], [out], keepdims=0))
            value = onnx.helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, None)
            copy.graph.output.append(value)
    session = open_session(copy.SerializeToString())
    outputs = [output.name for output in session.get_outputs()]
    found = dict.fromkeys(names, 0.0)
    for feeds in samples:
        values = [abs(float(value)) for value in session.run(outputs, dict(feeds))]
        for index, name in enumerate(names):
            found[name] = max(found[name], *values[2 * index : 2 * index + 2])
    return found


def magnitudes(
    model: ModelProto, tensors: Sequence[str], samples: Iterable[Feeds], found: dict[str, float]
) -> Magnitudes:
    """Histograms of ``tensors``, whose peaks are ``found``."""
    np = require("numpy", extra="convert")
    onnx = require("onnx", extra="convert")
    copy = type(model)()
    copy.CopyFrom(model)
    given = {value.name for value in copy.graph.input}
    inner = [name for name in tensors if name not in given]
    del copy.graph.output[:]
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner
    )
    session: Any = open_session(copy.SerializeToString()) if inner else None
    counts = {name: np.zeros(BINS, np.int64) for name in tensors}
    for feeds in samples:
        values = dict(zip(inner, session.run(inner, dict(feeds)) if inner else (), strict=True))
        for name in tensors:
            flat = np.ravel(values.get(name, feeds.get(name)))
            flat = np.abs(flat[:: (flat.size // LOOKED_AT) | 1])  # odd: not always the same column
            scale = BINS / (found[name] or 1.0)
            bins = np.minimum((flat * scale).astype(np.int64), BINS - 1)
            counts[name] += np.bincount(bins, minlength=BINS)
    return Magnitudes({name: found[name] for name in tensors}, counts)
