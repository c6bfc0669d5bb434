from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.bundle import pack, save_tensors
from edge.cli._main import main
from edge.core import plugins
from edge.core.contracts import Availability
from edge.core.errors import EngineError, NotFoundError, UnavailableError
from edge.core.manifest import Golden, Manifest, Variant
from edge.core.tensor import TensorSpec

ENGINES = ("onnxruntime", "openvino")
TOLERANCES = {f"{engine}-fp32": {"y": 0.001} for engine in ENGINES}


def packed(folder: Path, output: Path, *, expected: float = 2.0, model: bytes = b"graph") -> Path:
    """A model that doubles two numbers, with one recorded answer."""
    specs = [TensorSpec(name=name, dtype="float32", shape=(1, 2)) for name in "xy"]
    for engine in ENGINES:
        place = folder / f"variants/{engine}-fp32"
        place.mkdir(parents=True)
        (place / "model.onnx").write_bytes(model)
    (folder / "goldens/0").mkdir(parents=True)
    save_tensors(folder / "goldens/0/i.npz", {"x": np.ones((1, 2), np.float32)})
    save_tensors(folder / "goldens/0/e.npz", {"y": np.full((1, 2), expected, np.float32)})
    manifest = Manifest(
        schema=1,
        name="double",
        version="1",
        task="tensors",
        profile="host",
        source_sha256="0" * 64,
        goldens=(
            Golden(inputs="goldens/0/i.npz", expected="goldens/0/e.npz", tolerances=TOLERANCES),
        ),
        variants=tuple(
            Variant(
                id=f"{engine}-fp32",
                engine=engine,
                precision="fp32",
                files=(),
                inputs=(specs[0],),
                outputs=(specs[1],),
            )
            for engine in ENGINES
        ),
    )
    return pack(manifest, folder, output)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return packed(tmp_path / "parts", tmp_path / "double.edge")


class Compared(msgspec.Struct, frozen=True):
    golden: int
    output: str
    max_abs_error: float
    tolerance: float
    passed: bool


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What each engine does here: an error to raise at loading, or the error of its answer.

    None has no answer to compare; a tuple is why the engine is not ready, and the hint.
    """
    behaviour: dict[str, object] = dict.fromkeys(ENGINES, 0.0)

    class Engine:
        def __init__(self, name: str) -> None:
            if name not in behaviour:
                raise NotFoundError(f"no engine named {name!r}")
            self.name = name

        def availability(self) -> Availability:
            does = behaviour[self.name]
            if isinstance(does, tuple):
                return Availability(ready=False, reason=does[0], hint=does[1])
            return Availability(ready=True)

    class Loaded:
        def __init__(self, error: float | None) -> None:
            self.error = error

        def verify_goldens(self) -> list[Compared]:
            if self.error is None:
                return []
            near = Compared(0, "y", 0.0, 0.001, True)
            return [near, Compared(1, "y", self.error, 0.001, self.error <= 0.001)]

        def __enter__(self) -> Loaded:
            return self

        def __exit__(self, *_: object) -> None: ...

    def load(path: Path, *, engine: str, variant: str) -> Loaded:
        assert variant.startswith(engine)  # no other engine stands in for it
        does = behaviour[variant.removesuffix("-fp32")]
        if isinstance(does, Exception):
            raise does
        assert does is None or isinstance(does, float)
        return Loaded(does)

    module = types.ModuleType("edge.host")
    module.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edge.host", module)
    monkeypatch.setattr(plugins, "backend", Engine)
    return behaviour


Answer = Callable[..., tuple[int, dict[str, dict[str, object]]]]


@pytest.fixture
def answer(bundle: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    def run(*options: str) -> tuple[int, dict[str, dict[str, object]]]:
        code = main(["verify", str(bundle), "--json", *options])
        found = json.loads(capsys.readouterr().out)["variants"]
        return code, {variant["engine"]: variant for variant in found}

    return run


def test_right_answers_exit_0(answer: Answer, host: dict[str, object]) -> None:
    code, variants = answer()
    assert code == 0
    assert [variant["state"] for variant in variants.values()] == ["passed", "passed"]


def test_a_wrong_answer_exits_1_and_says_by_how_much(
    bundle: Path, host: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    host["openvino"] = 0.25
    assert main(["verify", str(bundle)]) == 1
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "✓ onnxruntime-fp32: 2 of 2 answers are right" in text
    assert "✗ openvino-fp32: 1 of 2 answers are right" in text
    row = next(line for line in text.splitlines() if line.startswith("openvino-fp32"))
    assert row.split() == ["openvino-fp32", "y", "1/2", "0.25", "0.001"]


def test_an_engine_that_is_absent_is_skipped_with_its_reason(
    bundle: Path, host: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    host["openvino"] = ("it is not installed", "pip install it")
    assert main(["verify", str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "○ openvino-fp32: not run here: it is not installed" in text
    assert "hint: pip install it" in text


def test_no_engine_that_can_run_it_exits_3(answer: Answer, host: dict[str, object]) -> None:
    host["onnxruntime"] = UnavailableError("no such device here")
    host["openvino"] = ("not installed", "")
    code, variants = answer()
    assert code == 3
    assert variants["onnxruntime"]["reason"] == "no such device here"


def test_an_engine_that_fails_exits_3_and_the_others_still_run(
    answer: Answer, host: dict[str, object]
) -> None:
    host["onnxruntime"] = EngineError("can not parse the graph")
    code, variants = answer()
    assert code == 3
    assert variants["onnxruntime"]["state"] == "error"
    assert variants["openvino"]["state"] == "passed"


def test_one_engine_can_be_asked_for(
    bundle: Path, answer: Answer, host: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    host["onnxruntime"] = EngineError("must not be asked")
    code, variants = answer("--engine", "openvino")
    assert code == 0
    assert list(variants) == ["openvino"]
    assert main(["verify", str(bundle), "--engine", "abacus"]) == 2
    assert "no engine named 'abacus'" in capsys.readouterr().err
    host["null"] = 0.0
    assert main(["verify", str(bundle), "--engine", "null"]) == 2
    assert "has no variant for null" in capsys.readouterr().err


def test_a_variant_without_recorded_answers_is_not_called_right(
    answer: Answer, host: dict[str, object]
) -> None:
    host["onnxruntime"] = None
    code, variants = answer()
    assert code == 0
    assert variants["onnxruntime"]["state"] == "unproven"


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_a_flipped_byte_exits_2_and_names_the_entry_before_anything_runs(
    bundle: Path,
    host: dict[str, object],
    capsys: pytest.CaptureFixture[str],
    json_option: list[str],
) -> None:
    host.clear()
    bundle.write_bytes(bundle.read_bytes().replace(b"graph", b"grapi", 1))
    assert main(["verify", str(bundle), *json_option]) == 2
    caught = capsys.readouterr()
    assert "variants/onnxruntime-fp32/model.onnx differs from its digest" in caught.err
    assert caught.out == ""


@pytest.fixture
def real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """An ONNX graph that doubles two numbers, for the engines that are really here."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", float32, [1, 2])],
        [helper.make_tensor_value_info("y", float32, [1, 2])],
    )
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize(("expected", "code"), [(2.0, 0), (2.5, 1)])
def test_a_real_engine_is_held_to_the_recorded_answers(
    tmp_path: Path,
    real_model: bytes,
    capsys: pytest.CaptureFixture[str],
    expected: float,
    code: int,
) -> None:
    path = packed(tmp_path / "real", tmp_path / "real.edge", expected=expected, model=real_model)
    assert main(["verify", str(path), "--engine", "onnxruntime", "--json"]) == code
    (variant,) = json.loads(capsys.readouterr().out)["variants"]
    assert variant["state"] == ("passed" if code == 0 else "failed")
    assert variant["answers"][0]["max_abs_error"] == expected - 2


def test_a_graph_that_the_real_engine_refuses_exits_3(
    tmp_path: Path, real_model: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = packed(tmp_path / "real", tmp_path / "real.edge", model=b"no graph")
    assert main(["verify", str(path), "--engine", "onnxruntime"]) == 3
    assert "✗ onnxruntime-fp32: onnxruntime failed" in capsys.readouterr().out
