"""Small bundles: on the null engine, and a real matrix product on the others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bundle import pack, save_tensors
from edge.core import plugins
from edge.core.manifest import FileEntry, Golden, Manifest, Variant
from edge.core.tensor import TensorSpec

WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)
INPUTS = (TensorSpec("x", "float32", ("batch", 3)),)
OUTPUTS = (TensorSpec("y", "float32", ("batch", 4)),)

MakeBundle = Callable[..., Path]


@pytest.fixture(scope="session")
def product() -> bytes:
    """An ONNX file that computes ``x @ WEIGHTS``."""
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    info, kind = make.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [info("x", kind, ["batch", 3])],
        [info("y", kind, ["batch", 4])],
        [onnx.numpy_helper.from_array(WEIGHTS, "w")],
    )
    opsets = [make.make_opsetid("", 17)]
    data: bytes = make.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


@pytest.fixture
def make_variant() -> Callable[..., Variant]:
    """Make a variant; on the null engine unless told otherwise."""

    def make(variant_id: str = "null-fp32", engine: str = "null", **fields: Any) -> Variant:
        given = {"precision": "fp32", "files": (), "inputs": INPUTS, "outputs": OUTPUTS, **fields}
        return Variant(id=variant_id, engine=engine, **given)

    return make


@pytest.fixture
def make_bundle(tmp_path: Path, make_variant: Callable[..., Variant]) -> MakeBundle:
    """Pack a bundle.

    Each variant gets ``model`` as its one file, and the one golden ``expected`` as the answer to
    ones, with ``tolerance`` for every variant.
    """

    def make(
        *variants: Variant,
        name: str = "product",
        version: str = "1",
        file: str = "",
        model: bytes = b"",
        expected: np.ndarray | None = None,
        tolerance: float = 1e-4,
        **fields: Any,
    ) -> Path:
        parts = tmp_path / f"parts-{name}-{version}-{file}"
        made = [_with_file(v, model, parts) for v in variants or (make_variant(),)]
        goldens: tuple[Golden, ...] = ()
        if expected is not None:
            place = parts / "goldens" / "0"
            place.mkdir(parents=True)
            save_tensors(place / "inputs.npz", {"x": np.ones((1, 3), np.float32)})
            save_tensors(place / "expected.npz", {"y": expected})
            allowed = {variant.id: {"y": tolerance} for variant in made}
            goldens = (Golden("goldens/0/inputs.npz", "goldens/0/expected.npz", allowed),)
        parts.mkdir(exist_ok=True)
        for path, text in fields.pop("texts", {}).items():
            (parts / path).write_text(text)
        given = {"task": "tensors", "profile": "host", "goldens": goldens, **fields}
        manifest = Manifest(
            schema=1,
            name=name,
            version=version,
            source_sha256="0" * 64,
            variants=tuple(made),
            **given,
        )
        folder = tmp_path / "models"
        folder.mkdir(exist_ok=True)
        return pack(manifest, parts, folder / (file or f"{name}-{version}.edge"))

    return make


def _with_file(variant: Variant, model: bytes, parts: Path) -> Variant:
    import msgspec

    if not model or variant.engine == "null":
        return variant
    path = parts / "variants" / variant.id / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(model)
    entry = FileEntry("model.onnx", hashlib.sha256(model).hexdigest(), len(model))
    return msgspec.structs.replace(variant, files=(entry,))


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request: pytest.FixtureRequest) -> str:
    """An engine that really computes, where it is installed."""
    name: str = request.param
    availability = plugins.backend(name).availability()
    if not availability.ready:
        pytest.skip(availability.reason)
    return name
