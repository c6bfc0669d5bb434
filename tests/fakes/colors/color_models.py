"""Small models that work together: what finds boxes, names colours, and adds tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bundle import pack
from edge.core.manifest import Manifest, Variant
from edge.core.spec import ImageSpec, OutputSpec, Resize
from edge.core.tensor import TensorSpec

COLORS = ("blue", "green", "red")
SIDE = 8
IMAGE = ImageSpec("x", resize=Resize(exact=(SIDE, SIDE)), color="bgr", scale=1 / 255)

BLUE, GREEN, RED = (255, 0, 0), (0, 255, 0), (0, 0, 255)
FOUND = ((10, 10, 40, 40, 0.9, 0), (60, 20, 90, 50, 0.8, 1), (20, 60, 50, 90, 0.7, 0))
"""Boxes in a picture of 100x100, best first: x0 y0 x1 y1 score class."""


def manifest_of(
    name: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    *,
    engine: str = "onnxruntime",
    **fields: Any,
) -> Manifest:
    given = {"task": "tensors", "profile": "host", "source_sha256": "0" * 64, **fields}
    variant = Variant(
        id="fp32", engine=engine, precision="fp32", files=(), inputs=inputs, outputs=outputs
    )
    return Manifest(schema=1, name=name, version="1", variants=(variant,), **given)


def finder(name: str = "finder") -> Manifest:
    """Answers boxes, all of them the same for any picture."""
    return manifest_of(
        name,
        (TensorSpec("x", "float32", (1, 3, SIDE, SIDE)),),
        (TensorSpec("y", "float32", (1, len(FOUND), 6)),),
        task="detection",
        image=IMAGE,
        output=OutputSpec("detections"),
        labels="labels.txt",
    )


def namer(name: str = "namer", rows: int | str = "n") -> Manifest:
    """Names the colour that a picture has most of."""
    return manifest_of(
        name,
        (TensorSpec("x", "float32", (rows, 3, SIDE, SIDE)),),
        (TensorSpec("y", "float32", (rows, 3)),),
        task="classification",
        image=IMAGE,
        output=OutputSpec("softmax", top=1),
        labels="labels.txt",
    )


def adder(name: str = "adder") -> Manifest:
    """``y = a + b`` of rows of three."""
    row = ("n", 3)
    inputs = (TensorSpec("a", "float32", row), TensorSpec("b", "float32", row))
    return manifest_of(name, inputs, (TensorSpec("y", "float32", row),))


def switch() -> Manifest:
    """``y`` is ``on``, of one element."""
    return manifest_of(
        "switch",
        (TensorSpec("on", "float32", (1, 1)),),
        (TensorSpec("y", "float32", (1, 1)),),
    )


MANIFESTS = (
    finder(),
    namer(),
    namer("namer-alone", 1),
    namer("namer-four", 4),
    adder(),
    switch(),
)


def picture() -> np.ndarray:
    """Its first box is blue, the second green, the third red, on black."""
    picture = np.zeros((100, 100, 3), np.uint8)
    for (x0, y0, x1, y1, *_), color in zip(FOUND, (BLUE, GREEN, RED), strict=True):
        picture[y0:y1, x0:x1] = color
    return picture


def pack_all(folder: Path) -> None:
    """Write a bundle of each of ``MANIFESTS``."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("cv2")
    make = onnx.helper
    boxes = np.array([FOUND], np.float32)
    boxes[..., :4] *= SIDE / 100
    find = [
        make.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        make.make_node("Mul", ["top", "zero"], ["nothing"]),
        make.make_node("Add", ["boxes", "nothing"], ["y"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(boxes, "boxes"),
        onnx.numpy_helper.from_array(np.float32(0), "zero"),
    ]
    mean = [make.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    add = [make.make_node("Add", ["a", "b"], ["y"])]
    same = [make.make_node("Identity", ["on"], ["y"])]
    graphs = {"finder": (find, constants), "adder": (add, []), "switch": (same, [])}
    for manifest in MANIFESTS:
        _pack(onnx, folder, manifest, *graphs.get(manifest.name, (mean, [])))


def _pack(
    onnx: Any, folder: Path, manifest: Manifest, nodes: list[Any], constants: list[Any]
) -> None:
    (variant,) = manifest.variants
    kind = onnx.TensorProto.FLOAT
    io = [
        [onnx.helper.make_tensor_value_info(spec.name, kind, spec.shape) for spec in specs]
        for specs in (variant.inputs, variant.outputs)
    ]
    graph = onnx.helper.make_graph(nodes, manifest.name, *io, constants)
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    parts = folder / f"parts-{manifest.name}"
    place = parts / "variants" / variant.id
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(model.SerializeToString())
    if manifest.labels:
        (parts / manifest.labels).write_text("\n".join(COLORS))
    pack(manifest, parts, folder / f"{manifest.name}.edge")
