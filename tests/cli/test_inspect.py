from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.bundle import pack, save_tensors
from edge.cli._main import main
from edge.cli.inspect import image_text
from edge.core.manifest import Golden, Latency, Manifest, Metric, Variant
from edge.core.spec import ImageSpec, OutputSpec, Pad, Resize
from edge.core.tensor import TensorSpec

IMAGE = ImageSpec(
    input="data",
    resize=Resize(shorter=256),
    crop=(224, 224),
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def variant(variant_id: str, engine: str, precision: str, *, chosen: bool = False) -> Variant:
    return Variant(
        id=variant_id,
        engine=engine,
        precision=precision,
        files=(),
        inputs=(TensorSpec(name="data", dtype="float32", shape=("batch", 3, 224, 224)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 10)),),
        metric=Metric(name="top1", value=59.4),
        agreement=0.946,
        latency_ms=Latency(p50=1.1, p99=1.4),
        measured_on="Example CPU, 2 cores",
        requires={"sm": "87"} if chosen else {},
        chosen=chosen,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    manifest = Manifest(
        schema=1,
        name="squeezenet",
        version="1",
        task="classification",
        profile="jetson-orin-nano-8gb-super",
        source_sha256="0" * 64,
        variants=(
            variant("onnxruntime-fp32", "onnxruntime", "fp32"),
            variant("openvino-int8", "openvino", "int8", chosen=True),
        ),
        goldens=(Golden(inputs="goldens/0/i.npz", expected="goldens/0/e.npz", tolerances={}),),
        image=IMAGE,
        output=OutputSpec(),
        labels="labels.txt",
    )
    folder = tmp_path / "parts"
    for place in ("variants/onnxruntime-fp32", "variants/openvino-int8", "goldens/0"):
        (folder / place).mkdir(parents=True)
    (folder / "variants/onnxruntime-fp32/model.onnx").write_bytes(bytes(5_000_000))
    (folder / "variants/openvino-int8/model.xml").write_bytes(b"<net/>")
    for name in ("i", "e"):
        save_tensors(folder / f"goldens/0/{name}.npz", {"data": np.zeros(1)})
    (folder / "labels.txt").write_text("cat\ndog\n[bold]\n")
    return pack(manifest, folder, tmp_path / "squeezenet.edge")


def test_a_bundle_is_shown_within_80_columns(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(bundle)]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "squeezenet 1  classification for jetson-orin-nano-8gb-super" in text
    assert "none: the bundle is unsigned" in text
    assert "3: cat, dog, [bold]" in text
    row = next(line for line in text.splitlines() if "● openvino-int8" in line)
    assert " ".join(row.split()) == "● openvino-int8 openvino int8 6 B 59.40 94.6 % 1.10 ms"
    assert "5.00 MB" in text
    assert "needs sm 87" in text
    assert "(batch, 3, 224, 224)" in text
    assert "Example CPU, 2 cores" in text


def test_json_of_a_bundle_holds_the_whole_manifest(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(bundle), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["size_bytes"] == bundle.stat().st_size
    assert answer["labels"] == ["cat", "dog", "[bold]"]
    manifest = msgspec.convert(answer["manifest"], Manifest)
    assert manifest.variants[1].chosen
    assert manifest.image == IMAGE


def test_a_damaged_bundle_exits_2_and_names_the_entry(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle.write_bytes(bundle.read_bytes().replace(b"<net/>", b"<nut/>"))
    assert main(["inspect", str(bundle)]) == 2
    error = capsys.readouterr().err
    assert "variants/openvino-int8/model.xml differs from its digest" in error
    assert "hint: " in error


def test_a_missing_file_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "none.edge")]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (
            IMAGE,
            "data ← resize shorter 256, crop 224×224, rgb nchw, "
            "× 0.00392157 - (0.485 0.456 0.406) ÷ (0.229 0.224 0.225)",
        ),
        (
            ImageSpec(
                input="x",
                resize=Resize(exact=(240, 320)),
                color="bgr",
                pad=Pad(size=(416, 416), value=114, anchor="top-left"),
            ),
            "x ← resize 240×320, pad top-left to 416×416 with 114, bgr nchw",
        ),
        (ImageSpec(input="x", color="gray", layout="nhwc", mean=(127.0,)), "x ← gray nhwc, - 127"),
    ],
)
def test_the_picture_pipeline_reads_in_one_line(image: ImageSpec, text: str) -> None:
    assert image_text(image) == text


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    onnx = pytest.importorskip("onnx")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    weights = onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    bias = onnx.numpy_helper.from_array(np.ones(2, np.float32))
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["b"], value=bias),
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Add", ["h", "b"], ["i"]),
            helper.make_node("Add", ["i", "b"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", float32, ["batch", 4])],
        [helper.make_tensor_value_info("y", float32, ["batch", 2])],
        [weights],
    )
    opsets = [helper.make_opsetid("", 17)]
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_an_onnx_file_is_described(onnx_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(onnx_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["opsets"] == {"ai.onnx": 17}
    assert answer["ir"] == 8
    assert answer["ops"] == {"Add": 2, "Constant": 1, "MatMul": 1}
    assert answer["parameters"] == {"float32": 10}
    assert answer["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]
    assert main(["inspect", str(onnx_path)]) == 0
    text = capsys.readouterr().out
    assert "4 nodes: Add×2" in text
    assert "(batch, 2)" in text


def test_garbage_that_is_called_onnx_exits_2(
    onnx_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for data in (b"", b"no model at all", onnx_path.read_bytes()[:60]):
        onnx_path.write_bytes(data)
        assert main(["inspect", str(onnx_path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {onnx_path}")
        assert "hint: " in error
