"""PyTorch networks become ONNX files that answer the same."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import edge
from edge.cli._main import main
from edge.conversion import graph, torch_source
from edge.conversion.cache import StageCache
from edge.conversion.sources import as_file
from edge.core.errors import InputError, ModelError
from edge.core.profile import load_profile

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

FACTORIES = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(20, 8)
        self.out = torch.nn.Linear(8, 3)

    def forward(self, tokens, mask):
        weights = mask.to(torch.float32).unsqueeze(-1)
        return self.out((self.embed(tokens) * weights).sum(1) / weights.sum(1))

def build():
    torch.manual_seed(0)
    return Net(), {"tokens": torch.zeros(2, 5, dtype=torch.long), "mask": torch.ones(2, 5)}

def dynamic():
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    axes = {0: batch, 1: length}
    return (*build(), {"tokens": axes, "mask": axes})

def fails():
    raise RuntimeError("no weights here")

def wrong():
    return Net()

class Difference(torch.nn.Module):
    def forward(self, one, two):
        return one - two

def twice():
    same = torch.ones(2, 3)
    return Difference(), {"one": same, "two": same}

class Same(torch.nn.Module):
    def forward(self, x):
        return x * 2

class Whole(torch.nn.Module):
    def forward(self, x):
        return x.reshape(3) + 1

class Mean(torch.nn.Module):
    def forward(self, x):
        return x.mean((1, 2))

def single():
    return Same(), (torch.ones(1, 3),)

def fixed():
    return Whole(), (torch.ones(1, 3),)

def mean():
    return Mean(), (torch.ones(2, 3, 4),)

def without_inputs():
    return Same(), None

def numbers():
    return Same(), (2.0,)

def leaves():
    raise SystemExit(3)

def lacks():
    import not_installed_anywhere

def too_many():
    return Same(), (torch.ones(2), torch.ones(2))

def restless():
    import os, tempfile
    print("loading")
    os.chdir(tempfile.gettempdir())
    return single()

class Loop(torch.nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1

def branches():
    return Loop(), (torch.ones(3),)
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    name = f"factories_{tmp_path.name}".replace("-", "_").replace("[", "_").replace("]", "_")
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def _answers(path, tokens, mask):  # type: ignore[no-untyped-def]
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"tokens": tokens, "mask": mask})[0]


def test_a_factory_gives_a_file_with_named_axes_and_equal_answers(factories, tmp_path, capfd):
    import onnx

    path = torch_source.export_factory(f"{factories}:dynamic", 21, tmp_path)
    model = onnx.load(path)
    shapes = [[d.dim_param for d in v.type.tensor_type.shape.dim] for v in model.graph.input]
    assert shapes == [["batch", "length"]] * 2
    tokens = np.array([[1, 2, 3, 4, 5, 6, 7]], np.int64)
    mask = np.ones((1, 7), np.float32)
    module = sys.modules[factories].dynamic()[0].eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(tokens), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(_answers(path, tokens, mask), expected, atol=1e-5)
    assert capfd.readouterr() == ("", "")


def test_without_dynamic_shapes_the_batch_is_dynamic(factories, tmp_path):
    import onnx

    path = torch_source.export_factory(f"{factories}:build", 21, tmp_path)
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("batch", 5)


def test_one_example_given_for_two_inputs_keeps_them_apart(factories, tmp_path):
    import onnxruntime

    path = torch_source.export_factory(f"{factories}:twice", 21, tmp_path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {"one": np.full((1, 3), 5, np.float32), "two": np.full((1, 3), 2, np.float32)}
    assert session.run(None, feeds)[0].tolist() == [[3.0, 3.0, 3.0]]


def test_the_same_network_gives_the_same_bytes(factories, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        torch_source.export_factory(f"{factories}:build", 21, folder)
    one, two = (torch_source.FILE and (f / torch_source.FILE).read_bytes() for f in folders)
    assert one == two


def test_where_the_code_lies_does_not_matter(tmp_path, monkeypatch):
    code = (
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.relu() + 1\n"
        "def build():\n"
        "    return Net(), torch.ones(2, 3)\n"
    )
    written = []
    for place in ("here", "there"):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "placed.py").write_text("# a line more\n" * len(written) + code)
        monkeypatch.chdir(folder)
        monkeypatch.delitem(sys.modules, "placed", raising=False)
        written.append(torch_source.export_factory("placed:build", 18, folder).read_bytes())
    assert written[0] == written[1]
    assert str(tmp_path).encode() not in written[0]


def test_an_exported_program_is_read(factories, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module, inputs = __import__(factories).build()
    program = torch.export.export(module.eval(), (), inputs)
    torch.export.save(program, tmp_path / "net.pt2")
    cache = StageCache(tmp_path / "cache")
    path = as_file(str(tmp_path / "net.pt2"), load_profile("host"), tmp_path, cache)
    assert _answers(path, np.zeros((2, 5), np.int64), np.ones((2, 5), np.float32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("fails", "raised RuntimeError: no weights here"),
        ("wrong", "must return (module, example inputs)"),
        ("nothing", "has no attribute 'nothing'"),
    ],
)
def test_a_bad_factory_is_an_input_error(factories, tmp_path, function, said):
    with pytest.raises(InputError, match="factories") as caught:
        torch_source.export_factory(f"{factories}:{function}", 21, tmp_path)
    assert said in str(caught.value)


def test_a_network_that_can_not_be_traced_is_a_model_error(factories, tmp_path):
    with pytest.raises(ModelError, match="can not export"):
        torch_source.export_factory(f"{factories}:branches", 21, tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"garbage" * 50])
def test_a_damaged_program_is_a_model_error(tmp_path, content):
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(ModelError, match=r"net\.pt2"):
        torch_source.export_program(tmp_path / "net.pt2", 21, tmp_path)


def test_edge_check_shows_the_name_that_was_given(factories, capsys):
    assert main(["check", f"{factories}:build", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == f"{factories}:build"


def test_edge_convert_takes_a_factory(factories, tmp_path, capsys):
    output = tmp_path / "net.edge"
    arguments = ["convert", f"{factories}:dynamic", "--precision", "fp32", "--json"]
    assert main([*arguments, "--engine", "onnxruntime", "-o", str(output)]) == 0
    assert factories.replace("_", "") in capsys.readouterr().out.replace("_", "")
    with edge.load(output) as model:
        feeds = {"tokens": np.zeros((4, 2), np.int64), "mask": np.ones((4, 2), np.float32)}
        assert next(iter(model.infer(feeds).values())).shape == (4, 3)


class _Touch:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def _altered(source, target, change):  # type: ignore[no-untyped-def]
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


@pytest.mark.parametrize("part", ["sample_inputs", "weights"])
def test_nothing_in_a_program_is_unpickled(factories, tmp_path, monkeypatch, part):
    monkeypatch.syspath_prepend(tmp_path)
    module, inputs = __import__(factories).build()
    torch.export.save(torch.export.export(module.eval(), (), inputs), tmp_path / "net.pt2")
    evil = io.BytesIO()
    torch.save(_Touch(tmp_path / "ran"), evil)

    def change(name, data):  # type: ignore[no-untyped-def]
        if part == "weights" and name.endswith("weights_config.json"):
            config = json.loads(data)
            for entry in config["config"].values():
                entry["use_pickle"] = True
            return json.dumps(config)
        is_data = f"/{part}/" in name and not name.endswith(".json")
        return evil.getvalue() if is_data else data

    _altered(tmp_path / "net.pt2", tmp_path / "evil.pt2", change)
    with pytest.raises(ModelError, match=r"evil\.pt2"):
        torch_source.export_program(tmp_path / "evil.pt2", 21, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_program_with_code_in_it_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("net/data/constants/opaque_obj_0", b"")
    with pytest.raises(ModelError, match="holds more than a network"):
        torch_source.export_program(tmp_path / "net.pt2", 21, tmp_path)


def test_an_example_batch_of_one_is_made_dynamic_too(factories, tmp_path):
    path = torch_source.export_factory(f"{factories}:single", 21, tmp_path)
    assert [s.shape for s in _specs(path)] == [("batch", 3)]


def test_shapes_that_stay_fixed_are_said(factories, tmp_path, caplog):
    path = torch_source.export_factory(f"{factories}:fixed", 21, tmp_path)
    assert [s.shape for s in _specs(path)] == [(1, 3)]
    assert "with the shapes of its examples" in caplog.text


@pytest.mark.parametrize("opset", [17, 18, 20])
def test_the_opset_is_one_that_the_device_takes(factories, tmp_path, opset):
    import onnx

    path = torch_source.export_factory(f"{factories}:mean", opset, tmp_path)
    assert graph.opset_of(onnx.load(path)) <= opset
    assert _run(path, {"x": np.full((2, 3, 4), 5, np.float32)})[0].tolist() == [5, 5]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("without_inputs", "must return"),
        ("numbers", "must return"),
        ("leaves", "raised SystemExit"),
        ("lacks", "raised ModuleNotFoundError"),
    ],
)
def test_what_a_factory_does_wrong_is_told(factories, tmp_path, function, said):
    with pytest.raises(InputError, match=said):
        torch_source.export_factory(f"{factories}:{function}", 21, tmp_path)


def test_too_many_example_inputs_are_a_model_error(factories, tmp_path):
    with pytest.raises(ModelError, match="can not export"):
        torch_source.export_factory(f"{factories}:too_many", 21, tmp_path)


def test_a_factory_may_print_and_change_folder(factories, tmp_path, capsys):
    torch_source.export_factory(f"{factories}:restless", 21, tmp_path)
    assert capsys.readouterr().out == ""


def _specs(path):  # type: ignore[no-untyped-def]
    import onnx

    return graph.tensor_specs(onnx.load(path).graph.input)


def _run(path, feeds):  # type: ignore[no-untyped-def]
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)
