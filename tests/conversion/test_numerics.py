from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.conversion import numerics
from edge.conversion.noise import CAP_DB, NoiseSums
from edge.conversion.numerics import ModelForm, compare, layer_errors, onnx_form
from edge.core import plugins
from edge.core.contracts import ConvertRequest
from edge.core.errors import InputError, UnsupportedError
from edge.core.manifest import FileEntry, Variant
from edge.core.profile import load_profile

onnx = pytest.importorskip("onnx")
helper = onnx.helper

DEPTH = 4
ACTIVATIONS = ("relu0", "relu1", "relu2", "clip3")
OPS = {"relu": ("Relu",), "clip": ("Clip", "zero", "most")}
LIMITS = {"zero": 0.0, "most": 0.6}
ENGINES = ("onnx", "openvino")


class Noise:
    """Pictures of noise, the same each time."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        generator = np.random.default_rng(3)
        for _ in range(self.count):
            yield {"image": generator.standard_normal((1, 8, 10, 10)).astype(np.float32)}


def network(path: Path, change: Callable[[str, np.ndarray], np.ndarray] | None = None) -> Path:
    """Convolutions in a row with ReLUs and a Clip, which OpenVINO folds into the quantizer behind
    it, and a residual; ``change`` gets each weight by node."""
    nodes, weights, before = [], [], "image"
    for index in range(DEPTH):
        name = f"conv{index}"
        values = np.random.default_rng(index).standard_normal((8, 8, 3, 3)) / 6
        values = values.astype(np.float32)
        values = change(name, values) if change else values
        weights.append(onnx.numpy_helper.from_array(values, f"{name}.weight"))
        inputs = [before, f"{name}.weight"]
        after, (op, *limits) = ACTIVATIONS[index], OPS[ACTIVATIONS[index][:4]]
        nodes += [
            helper.make_node("Conv", inputs, [f"{name}.out"], name, pads=[1, 1, 1, 1]),
            helper.make_node(op, [f"{name}.out", *limits], [f"{after}.out"], after),
        ]
        before = f"{after}.out"
    nodes += [
        helper.make_node("Add", [before, "relu0.out"], ["sum"], "add"),
        helper.make_node("GlobalAveragePool", ["sum"], ["mean"], "pool"),
        helper.make_node("Flatten", ["mean"], ["scores"], "flatten"),
    ]
    weights += [onnx.numpy_helper.from_array(np.float32(v), n) for n, v in LIMITS.items()]
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", float32, ["batch", 8, 10, 10])],
        [helper.make_tensor_value_info("scores", float32, ["batch", 8])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network(tmp_path_factory.mktemp("source") / "source.onnx")


@pytest.fixture(scope="module")
def converted(
    source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], ModelForm]:
    """A variant of the source by converter and precision, made once."""
    made: dict[tuple[str, str], ModelForm] = {}

    def convert(name: str, precision: str) -> ModelForm:
        if (name, precision) not in made:
            converter = plugins.converter(name)
            if not converter.availability().ready:
                pytest.skip(converter.availability().reason)
            into = tmp_path_factory.mktemp(f"{name}-{precision}")
            request = ConvertRequest(source, load_profile("host"), precision, Noise(32))
            made[name, precision] = ModelForm(converter.convert(request, into), into)
        return made[name, precision]

    return convert


def broken(path: Path, node: str, factor: float) -> Path:
    """The network with the weights of one node cut off at a share of the largest."""

    def clip(name: str, values: np.ndarray) -> np.ndarray:
        limit = factor * np.abs(values).max()
        return np.clip(values, -limit, limit) if name == node else values

    return network(path, clip)


@pytest.mark.parametrize("node", ["conv0", "conv1", "conv3"])
def test_a_layer_that_was_broken_on_purpose_is_named(
    source: Path, tmp_path: Path, node: str
) -> None:
    other = onnx_form(broken(tmp_path / "broken.onnx", node, 0.1))
    found = compare(onnx_form(source), other, Noise(4))
    assert found.broke_at is not None
    assert found.broke_at.error.name == node
    first = next(i for i, row in enumerate(found.rows) if row.error.name == node)
    assert all(row.error.sqnr_db == CAP_DB for row in found.rows[:first])
    assert all(row.error.sqnr_db < 20 for row in found.rows[first:])


SCALES = np.geomspace(0.05, 20, 8).astype(np.float32).reshape(8, 1, 1, 1)


def test_channels_that_are_scaled_and_scaled_back_are_no_error(
    source: Path, tmp_path: Path
) -> None:
    factors = {"conv1": SCALES, "conv2": 1 / SCALES.reshape(1, 8, 1, 1)}
    evened = network(tmp_path / "evened.onnx", lambda name, w: w * factors.get(name, 1))
    found = compare(onnx_form(source), onnx_form(evened), Noise(2))
    assert len(found.rows) == 2 * DEPTH + 3
    assert min(row.error.sqnr_db for row in found.rows) > 100
    assert found.broke_at is None


def test_channels_that_stay_scaled_are_an_error(source: Path, tmp_path: Path) -> None:
    scaled = network(tmp_path / "s.onnx", lambda n, w: w * SCALES if n == "conv1" else w)
    found = compare(onnx_form(source), onnx_form(scaled), Noise(2))
    assert found.broke_at is not None
    assert found.broke_at.error.name == "conv1"
    assert found.broke_at.error.sqnr_db < 5


def test_layers_come_in_execution_order_with_their_operators(source: Path) -> None:
    form = onnx_form(source)
    errors = layer_errors(source, form.variant, form.folder, Noise(2))
    ops = {"conv": "Conv", "relu": "Relu", "clip": "Clip"}
    names = [name for i in range(DEPTH) for name in (f"conv{i}", ACTIVATIONS[i])]
    convolutions = [(name, ops[name[:4]]) for name in names]
    rest = [("add", "Add"), ("pool", "GlobalAveragePool"), ("flatten", "Flatten")]
    assert [(error.name, error.op) for error in errors] == [*convolutions, *rest]
    assert {(error.sqnr_db, error.cosine) for error in errors} == {(CAP_DB, 1.0)}


@pytest.mark.parametrize("engine", ENGINES)
def test_fewer_bits_mean_larger_errors_at_every_layer(
    source: Path, converted: Callable[[str, str], ModelForm], engine: str
) -> None:
    reference = onnx_form(source)
    by_name = [
        {row.error.name: row.error for row in compare(reference, form, Noise(8)).rows}
        for form in (converted(engine, precision) for precision in ("fp32", "fp16", "int8"))
    ]
    single, half, integer = by_name
    assert min(error.sqnr_db for error in single.values()) > 100
    assert {*ACTIVATIONS, "add", "flatten"} <= set(integer)
    for name, error in integer.items():
        assert 15 < error.sqnr_db < half[name].sqnr_db < single[name].sqnr_db
        assert 0.98 < error.cosine < 1


def test_two_files_of_openvino_compare(converted: Callable[[str, str], ModelForm]) -> None:
    single, integer = (converted("openvino", precision) for precision in ("fp32", "int8"))
    same = compare(single, single, Noise(2))
    assert {row.error.sqnr_db for row in same.rows} == {CAP_DB}
    found = compare(single, integer, Noise(4))
    assert [row.error.op for row in found.rows].count("Convolution") == DEPTH
    assert [row.is_output for row in found.rows].count(True) == 1
    assert all(15 < row.error.sqnr_db < 70 for row in found.rows)
    assert found.skipped == 0


def test_the_two_engines_compare_with_each_other(
    converted: Callable[[str, str], ModelForm],
) -> None:
    found = compare(converted("openvino", "int8"), converted("onnx", "fp32"), Noise(4))
    assert len(found.rows) > DEPTH
    assert all(15 < row.error.sqnr_db < 70 for row in found.rows)


@pytest.mark.parametrize("engine", ENGINES)
def test_values_that_come_out_leave_the_answers_as_they_were(
    converted: Callable[[str, str], ModelForm], engine: str
) -> None:
    form = converted(engine, "int8")
    feeds = next(iter(Noise(1)))
    backend = plugins.backend(form.variant.engine)
    with backend.open(form.variant, form.folder, load_profile("host")) as session:
        expected = session.run(feeds)["scores"]
    file = numerics.open_tapped(form.folder / form.variant.files[0].path)
    output = next(node.value for node in file.nodes if node.is_output)
    values = [node.value for node in file.nodes if node.is_layer]
    session, names = numerics._open(file, form, values, form.folder / "opened")
    with session:
        got = session.run(feeds)[names[output]]
    np.testing.assert_allclose(got, expected, rtol=0.01, atol=0.01 * np.abs(expected).max())


def test_many_tensors_are_taken_in_several_runs(
    source: Path, converted: Callable[[str, str], ModelForm], monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = onnx_form(source), converted("onnx", "fp16")
    at_once = compare(*forms, Noise(4))
    opened = []
    monkeypatch.setattr(numerics, "CHUNK_TENSORS", 3)
    monkeypatch.setattr(numerics, "_open", _counting(numerics._open, opened))
    in_parts = compare(*forms, Noise(4))
    assert [row.error.name for row in in_parts.rows] == [row.error.name for row in at_once.rows]
    # What follows is fused or not by what has to come out, which moves FP16 by tenths of a dB.
    for part, whole in zip(in_parts.rows, at_once.rows, strict=True):
        assert part.error.sqnr_db == pytest.approx(whole.error.sqnr_db, abs=3)
    assert max(opened) == 3
    assert len(opened) == 2 * -(-len(at_once.rows) // 3)


def _counting(function: Callable[..., object], counts: list[int]) -> Callable[..., object]:
    def counted(*arguments: object) -> object:
        counts.append(len(arguments[2]))  # type: ignore[arg-type]
        return function(*arguments)

    return counted


def test_one_chunk_is_no_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "CHUNK_BYTES", 100)
    sizes = (60, 40, 1, 500, 30)
    nodes = [
        numerics.Node("n", "Relu", "n", (), "n", ("n",), s, is_layer=True, is_output=False)
        for s in sizes
    ]
    chunks = numerics._chunks([(node, "v") for node in nodes])
    found = [[node.size_bytes for node, _ in chunk] for chunk in chunks]
    assert found == [[60, 40], [1], [500], [30]]


def test_a_network_with_other_names_has_nothing_to_compare(source: Path, tmp_path: Path) -> None:
    model = onnx.load(source)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{n}/other" if n.endswith((".out", "sum", "mean")) else n for n in names]
    del model.graph.node[-1]
    model.graph.output[0].name = "mean/other"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="no layer in common") as caught:
        compare(onnx_form(source), onnx_form(tmp_path / "other.onnx"), Noise(1))
    assert "two forms of one model" in caught.value.hint


def test_models_with_other_inputs_are_told_apart(source: Path, tmp_path: Path) -> None:
    model = onnx.load(source)
    model.graph.input[0].name = model.graph.node[0].input[0] = "picture"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="different inputs: image, and picture"):
        compare(onnx_form(source), onnx_form(tmp_path / "other.onnx"), Noise(1))


def test_without_samples_there_is_nothing_to_compare_on(source: Path) -> None:
    with pytest.raises(InputError, match="no samples"):
        compare(onnx_form(source), onnx_form(source), ())


def test_a_format_that_nothing_is_known_of_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(b"plan")
    entry = FileEntry("model.engine", "", 4)
    variant = Variant("tensorrt-fp16", "tensorrt", "fp16", (entry,), (), ())
    with pytest.raises(UnsupportedError, match=r"model\.engine can not be looked into"):
        layer_errors(source, variant, tmp_path, Noise(1))


def test_weights_that_overflow_give_the_lowest_figure_and_no_crash(
    source: Path, tmp_path: Path
) -> None:
    huge = network(tmp_path / "huge.onnx", lambda n, w: w * (3e38 if n == "conv2" else 1))
    found = compare(onnx_form(source), onnx_form(huge), Noise(2))
    errors = {row.error.name: row.error for row in found.rows}
    assert errors["conv1"].sqnr_db == CAP_DB
    assert errors["conv2"].sqnr_db == -CAP_DB
    assert errors["conv2"].cosine == 0
    assert found.broke_at is not None
    assert found.broke_at.error.name == "conv2"


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("expected", "got", "sqnr_db", "cosine"),
    [
        ([3.0, 4.0], [3.0, 4.0], CAP_DB, 1.0),
        ([10.0, 0.0], [10.0, 1.0], 20.0, 0.995037),
        ([3.0, 4.0], [-3.0, -4.0], -6.0206, -1.0),
        ([0.0, 0.0], [0.0, 0.0], CAP_DB, 1.0),
        ([0.0, 0.0], [1.0, 0.0], -CAP_DB, 0.0),
        ([1.0, 2.0], [1.0, NAN], -CAP_DB, 0.0),
        ([1.0, NAN], [1.0, NAN], CAP_DB, 1.0),
        ([1.0, INF], [1.0, 2.0], -CAP_DB, 0.0),
        ([10.0, -INF, 0.0], [10.0, -INF, 1.0], 20.0, 0.995037),
        ([], [], CAP_DB, 1.0),
    ],
)
def test_signal_to_noise_and_cosine_are_finite_and_right(
    expected: list[float], got: list[float], sqnr_db: float, cosine: float
) -> None:
    sums = NoiseSums()
    sums.add(np.array(expected, np.float32), np.array(got, np.float32))
    assert sums.sqnr_db == pytest.approx(sqnr_db, abs=1e-3)
    assert sums.cosine == pytest.approx(cosine, abs=1e-5)


def test_sums_survive_another_number_of_channels() -> None:
    sums = NoiseSums()
    for channels in (2, 3):
        expected = np.ones((1, channels, 5, 2), np.float32)
        got = expected.copy()
        got[0, 0, 0, 0] = 0
        sums.add(expected, got)
    assert sums.sqnr_db == pytest.approx(10 * np.log10(50 / 2))
    sums.add(np.zeros((1, 3, 0, 2), np.float32), np.zeros((1, 3, 0, 2), np.float32))
    assert sums.sqnr_db == pytest.approx(10 * np.log10(50 / 2))


def test_sums_do_not_depend_on_how_values_are_split() -> None:
    generator = np.random.default_rng(0)
    expected = generator.standard_normal((5, 30_000)).astype(np.float32)
    got = expected + generator.standard_normal(expected.shape).astype(np.float16) / 50
    whole, parts = NoiseSums(), NoiseSums()
    whole.add(expected, got)
    for row in range(5):
        parts.add(expected[row], got[row])
    assert whole.sqnr_db == pytest.approx(20 * np.log10(50), abs=0.1)
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db, abs=1e-9)


@pytest.mark.parametrize("got", [np.zeros((2, 1), np.float32), np.zeros(2, np.int8)])
def test_other_shapes_and_types_are_not_compared(got: np.ndarray) -> None:
    sums = NoiseSums()
    sums.add(np.zeros(2, np.float32), np.zeros(2, np.float32))
    sums.add(np.zeros(2, np.float32), got)
    sums.add(np.zeros(2, np.float32), np.zeros(2, np.float32))
    assert not sums.is_comparable
