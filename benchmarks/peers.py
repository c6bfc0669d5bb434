"""The quantizers' own defaults and best known settings, as variants beside ours."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge.core.manifest import FileEntry, Variant
from edge.core.tensor import TensorSpec

SAMPLES = 300
F32 = {"INFERENCE_PRECISION_HINT": "f32"}
BF16 = {"INFERENCE_PRECISION_HINT": "bf16"}


class Peer:
    """One setting of one tool; ``make`` writes the file that its engine opens."""

    def __init__(
        self, name: str, engine: str, make: Callable[..., Path], options: dict[str, Any]
    ) -> None:
        self.name = name
        self.engine = engine
        self.options = options
        self._make = make

    def variant(
        self, model: Path, samples: Any, folder: Path, specs: tuple[tuple[TensorSpec, ...], ...]
    ) -> Variant | str:
        """The variant, or why the tool gave none."""
        into = folder / self.name
        into.mkdir(parents=True)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                path = self._make(model, samples, into)
        except Exception as error:  # of three tools
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
        data = path.read_bytes()
        entries = [FileEntry(path.name, hashlib.sha256(data).hexdigest(), len(data))]
        weights = path.with_suffix(".bin")
        if weights.is_file():
            entries.append(FileEntry(weights.name, "0" * 64, weights.stat().st_size))
        return Variant(
            id=self.name,
            engine=self.engine,
            precision="int8" if "int8" in self.name else self.name.rsplit("-", 1)[-1],
            files=tuple(entries),
            inputs=specs[0],
            outputs=specs[1],
            options=self.options,
        )


class _Reader:
    def __init__(self, samples: Any) -> None:
        self._samples: Iterator[Any] = iter(_first(samples))

    def get_next(self) -> dict[str, Any] | None:
        feeds = next(self._samples, None)
        return None if feeds is None else dict(feeds)


def _first(samples: Any) -> list[Any]:
    return [feeds for feeds, _ in zip(samples, range(SAMPLES), strict=False)]


def _copy(model: Path, samples: Any, into: Path) -> Path:
    path = into / "model.onnx"
    path.write_bytes(model.read_bytes())
    return path


def _ort_defaults(model: Path, samples: Any, into: Path) -> Path:
    from onnxruntime.quantization import quantize_static

    quantize_static(model, into / "model.onnx", _Reader(samples))
    return into / "model.onnx"


def _ort_best(model: Path, samples: Any, into: Path) -> Path:
    """Pre-processed, unsigned activations, a scale per channel; the opset raised where needed."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    loaded = onnx.load(model)
    raised, prepared = into / "raised.onnx", into / "prepared.onnx"
    if max(o.version for o in loaded.opset_import if o.domain == "") < 13:
        loaded = onnx.version_converter.convert_version(loaded, 13)
    onnx.save(loaded, raised)
    quant_pre_process(raised, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        into / "model.onnx",
        _Reader(samples),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return into / "model.onnx"


def _ort_dynamic(model: Path, samples: Any, into: Path) -> Path:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(model, into / "model.onnx", per_channel=True)
    return into / "model.onnx"


def _ov_float(model: Path, samples: Any, into: Path) -> Path:
    import openvino

    openvino.save_model(openvino.convert_model(model), into / "model.xml", compress_to_fp16=False)
    return into / "model.xml"


def _nncf(**settings: Any) -> Callable[..., Path]:
    def make(model: Path, samples: Any, into: Path) -> Path:
        import nncf
        import openvino

        logging.getLogger("nncf").setLevel(logging.ERROR)
        chosen = {
            name: getattr(*value) if isinstance(value, tuple) else value
            for name, value in {
                "preset": (nncf.QuantizationPreset, "PERFORMANCE"),
                **{
                    name: (getattr(nncf, value[0]), value[1]) if isinstance(value, tuple) else value
                    for name, value in settings.items()
                },
            }.items()
        }
        data = _first(samples)
        quantized = nncf.quantize(
            openvino.convert_model(model), nncf.Dataset(data), subset_size=len(data), **chosen
        )
        openvino.save_model(quantized, into / "model.xml")
        return into / "model.xml"

    return make


MIXED = ("QuantizationPreset", "MIXED")
PEERS = (
    Peer("ort-fp32", "onnxruntime", _copy, {}),
    Peer("ort-int8-defaults", "onnxruntime", _ort_defaults, {}),
    Peer("ort-int8-per-channel", "onnxruntime", _ort_best, {}),
    Peer("ort-int8-dynamic", "onnxruntime", _ort_dynamic, {}),
    Peer("ov-fp32", "openvino", _ov_float, F32),
    Peer("ov-bf16", "openvino", _ov_float, BF16),
    Peer("nncf-int8-performance", "openvino", _nncf(), F32),
    Peer("nncf-int8-mixed", "openvino", _nncf(preset=MIXED), F32),
    Peer("nncf-int8-accurate", "openvino", _nncf(preset=MIXED, fast_bias_correction=False), F32),
)
TRANSFORMER = Peer(
    "nncf-int8-transformer",
    "openvino",
    _nncf(preset=MIXED, model_type=("ModelType", "TRANSFORMER")),
    F32,
)
