from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge.bundle import pack, save_tensors
from edge.cli._compare import LayerFacts, _sparkline
from edge.cli._main import main
from edge.core.manifest import FileEntry, Golden, Manifest, Variant
from edge.core.spec import load_spec
from edge.core.tensor import TensorSpec

onnx = pytest.importorskip("onnx")

BROKEN = "/3/Conv"


@pytest.fixture
def broken(digits: Path, tmp_path: Path) -> Path:
    """The sample model with the weights of its second convolution cut off."""
    model = onnx.load(digits / "digits.onnx")
    weight = next(node.input[1] for node in model.graph.node if node.name == BROKEN)
    for tensor in model.graph.initializer:
        if tensor.name == weight:
            values = onnx.numpy_helper.to_array(tensor)
            limit = np.abs(values).max() / 20
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.clip(-limit, limit), weight))
    path = tmp_path / "broken.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def bundle(digits: Path, broken: Path, tmp_path: Path) -> Path:
    """A bundle whose chosen variant is sound and whose other one is broken, with two goldens."""
    variants = []
    parts = tmp_path / "parts"
    for variant_id, file in (("broken", broken), ("sound", digits / "digits.onnx")):
        folder = parts / "variants" / variant_id
        folder.mkdir(parents=True)
        shutil.copy(file, folder / "model.onnx")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        variants.append(
            Variant(
                id=variant_id,
                engine="onnxruntime",
                precision="fp32",
                files=(FileEntry("model.onnx", digest, file.stat().st_size),),
                inputs=(TensorSpec("image", "float32", ("batch", 1, 8, 8)),),
                outputs=(TensorSpec("logits", "float32", ("batch", 10)),),
                chosen=variant_id == "sound",
            )
        )
    goldens = []
    for number in range(2):
        place = parts / "goldens" / str(number)
        place.mkdir(parents=True)
        image = np.random.default_rng(number).random((1, 1, 8, 8), np.float32)
        save_tensors(place / "inputs.npz", {"image": image})
        save_tensors(place / "expected.npz", {"logits": np.zeros((1, 10), np.float32)})
        goldens.append(Golden(f"goldens/{number}/inputs.npz", f"goldens/{number}/expected.npz", {}))
    spec = load_spec(digits / "model.toml")
    manifest = Manifest(
        schema=1,
        name="digits",
        version="1",
        task="classification",
        profile="host",
        source_sha256="0" * 64,
        variants=tuple(variants),
        goldens=tuple(goldens),
        image=spec.image,
        output=spec.output,
    )
    return pack(manifest, parts, tmp_path / "digits.edge")


def test_the_broken_layer_is_named_within_80_columns(
    digits: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["inspect", "--compare", str(digits / "digits.onnx"), str(broken), "--worst", "3"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "broken.onnx  against digits.onnx" in text
    said = next(line for line in text.splitlines() if line.startswith("broke at"))
    assert f"Conv {BROKEN}" in said
    assert "noise, for want of goldens or --calib" in text
    assert "The worst 3 of 9 layers" in text
    assert text.count(" dB  ") >= 3


def test_a_bundle_gives_its_chosen_variant_and_its_goldens(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "--compare", str(bundle), f"{bundle}:broken", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["reference"] == "digits.edge:sound"
    assert facts["compared"] == "digits.edge:broken"
    assert facts["samples"] == "2 goldens of digits.edge"
    assert facts["broke_at"] == BROKEN
    by_name = {layer["name"]: layer for layer in facts["layers"]}
    assert facts["worst"] == min(by_name, key=lambda name: by_name[name]["sqnr_db"])
    assert by_name["/0/Conv"]["sqnr_db"] == 120
    assert by_name["/0/Conv"]["fall_db"] is None
    assert by_name[BROKEN]["fall_db"] == 120 - by_name[BROKEN]["sqnr_db"]
    assert [layer["name"] for layer in facts["layers"] if layer["is_output"]] == ["/12/Gemm"]


def test_given_samples_count_for_more_than_goldens(
    bundle: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["inspect", "--compare", str(digits / "digits.onnx"), f"{bundle}:broken", "--json"]
    assert main([*command, "--calib", str(digits / "calib")]) == 0
    by_bundle = json.loads(capsys.readouterr().out)
    assert by_bundle["samples"] == "16 samples of calib"
    # The bundle knows how pictures become tensors; without one, the spec has to say it.
    spec = ["--calib", str(digits / "calib"), "--spec", str(digits / "model.toml")]
    assert main([*command, *spec]) == 0
    assert json.loads(capsys.readouterr().out) == by_bundle


def test_equal_models_have_no_worst_layer_that_broke(
    bundle: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "--compare", str(digits / "digits.onnx"), str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "120.0 dB, cosine 1.00000: Gemm /12/Gemm" in text
    assert "no single layer" in text


@pytest.mark.parametrize(
    ("operands", "message"),
    [
        (["none.onnx", "digits.edge"], "none.onnx: there is no such file"),
        (["digits.edge", "digits.edge:fp4"], "has no variant 'fp4'"),
        (["digits.edge", "broken.onnx:int8"], "broken.onnx has no variants"),
        (["broken.onnx", "other.onnx"], "different inputs: image, and picture"),
    ],
)
@pytest.mark.usefixtures("bundle")
def test_operands_that_do_not_fit_exit_2(
    broken: Path, operands: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = broken.parent
    model = onnx.load(broken)
    model.graph.input[0].name = model.graph.node[0].input[0] = "picture"
    onnx.save(model, folder / "other.onnx")
    assert main(["inspect", "--compare", *(str(folder / name) for name in operands)]) == 2
    assert message in capsys.readouterr().err


def test_inspect_takes_a_file_or_two_to_compare(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect"]) == 2
    assert main(["inspect", str(broken), "--compare", str(broken), str(broken)]) == 2
    assert capsys.readouterr().err.count("takes a FILE, or --compare A B") == 2


def test_the_line_by_depth_shows_the_fall_and_stays_short() -> None:
    def layers(values: list[float]) -> list[LayerFacts]:
        return [LayerFacts("n", "Conv", v, 1.0, None, is_output=False) for v in values]

    assert _sparkline(layers([40, 40, 10, 5])) == "██▂▁ 5 to 40 dB"
    assert _sparkline(layers([120.0])) == "█ 120 to 120 dB"
    long = _sparkline(layers([40.0] * 300 + [0.0] + [40.0] * 64))
    assert long.endswith(" 0 to 40 dB")
    assert len(long) < 65
    assert "▁" in long
