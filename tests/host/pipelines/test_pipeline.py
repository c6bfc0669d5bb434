"""Declared pipelines on a real engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from patience import LONG_S

from edge.core.errors import EngineError, InputError, NotFoundError, SettingsError, UnavailableError
from edge.host import Runtime
from edge.host.pictures import Pictures
from edge.host.pipelines import Pipeline
from edge.settings import ModelSettings

CROPS = """
[steps.names]
model = "namer"
crop = "things"

[steps.things]
model = "finder"
"""
SUMS = """
[steps.second]
model = "adder"
inputs = { a = "first.y", b = "input.c" }

[steps.first]
model = "adder"
inputs = { a = "input.a", b = "input.b" }
"""

Make = Callable[..., Pipeline]


@pytest.fixture
def make(models: Path, declared: Callable[[str], Any]) -> Iterator[Make]:
    """A pipeline, called ``line``, of a runtime of its own."""
    runtimes: list[Runtime] = []

    def begin(text: str, **settings: Any) -> Pipeline:
        runtimes.append(Runtime(models, pipelines={"line": declared(text)}, **settings))
        return runtimes[-1].pipeline("line")

    yield begin
    for runtime in runtimes:
        runtime.close()


def names(boxes: list[dict[str, Any]]) -> list[Any]:
    return [box["names"] and box["names"][0]["name"] for box in boxes]


def rows(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_each_box_is_named_by_what_it_shows(make: Make, colors: np.ndarray) -> None:
    answer = make(CROPS).run(colors)
    boxes = answer["things"]
    assert names(boxes) == ["blue", "green", "red"]
    assert [box["index"] for box in boxes] == [0, 1, 0]
    corners = [[box[side] for side in ("x0", "y0", "x1", "y1")] for box in boxes]
    expected = [[10, 10, 40, 40], [60, 20, 90, 50], [20, 60, 50, 90]]
    assert np.allclose(corners, expected, atol=1e-3)
    assert list(answer) == ["things"]
    assert msgspec.json.decode(msgspec.json.encode(answer)) == answer


@pytest.mark.parametrize("model", ["namer-alone", "namer-four"])
def test_a_batch_of_fixed_size_gives_the_same(make: Make, colors: np.ndarray, model: str) -> None:
    text = CROPS.replace('"namer"', f'"{model}"')
    assert make(text).run(colors) == make(CROPS).run(colors)


def test_the_answer_is_that_of_the_models_called_by_hand(make: Make, colors: np.ndarray) -> None:
    pipeline = make(CROPS)
    models = {name: work.model() for name, work in pipeline._works.items()}
    found = models["things"].predict(colors)
    answer = pipeline.run(colors)["things"]
    for box, said in zip(found, answer, strict=True):
        x0, y0, x1, y1 = map(round, (box.x0, box.y0, box.x1, box.y1))
        crop = colors[y0:y1, x0:x1]
        labels = [msgspec.to_builtins(label) for label in models["names"].predict(crop)]
        assert said == {**msgspec.to_builtins(box), "names": labels}


def test_all_boxes_go_through_a_model_as_one(make: Make, colors: np.ndarray) -> None:
    pipeline = make(CROPS)
    pipeline.run(colors)
    namer = pipeline._works["names"].model()
    assert namer.snapshot().success_count == 1


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", ["blue", "green", "red"]),
        ('labels = ["green"]', [None, "green", None]),
        ("min_score = 0.75", ["blue", "green", None]),
        ("limit = 1", ["blue", None, None]),
        ('labels = ["blue"]\nmin_score = 0.5\nlimit = 2', ["blue", None, "red"]),
        ("min_side = 31", [None, None, None]),
    ],
)
def test_a_step_may_look_at_some_boxes_only(
    make: Make, colors: np.ndarray, keys: str, expected: list[Any]
) -> None:
    text = CROPS.replace('crop = "things"', f'crop = "things"\n{keys}')
    assert names(make(text).run(colors)["things"]) == expected


def test_a_step_may_give_more_labels_than_its_model(make: Make, colors: np.ndarray) -> None:
    boxes = make(CROPS.replace("crop =", "top = 3\ncrop =")).run(colors)["things"]
    assert [label["name"] for label in boxes[1]["names"]] == ["green", "blue", "red"]
    assert len(make(CROPS).run(colors)["things"][1]["names"]) == 1


def test_a_margin_shows_what_lies_around_a_box(make: Make, colors: np.ndarray) -> None:
    colors[:, :] = np.where(colors.any(axis=2, keepdims=True), colors, (0, 0, 255))
    wide = CROPS.replace('crop = "things"', 'crop = "things"\nmargin = 0.5')
    assert names(make(CROPS).run(colors)["things"])[:2] == ["blue", "green"]
    assert names(make(wide).run(colors)["things"])[:2] == ["red", "red"]


def test_no_boxes_give_an_empty_answer(make: Make, colors: np.ndarray, models: Path) -> None:
    pipeline = make(CROPS)
    finder = pipeline._works["things"].model()
    strict = msgspec.structs.replace(finder.manifest.output, score_threshold=0.99)
    manifest = msgspec.structs.replace(finder.manifest, output=strict)
    finder._pictures = Pictures(manifest, finder.labels, finder.inputs)
    assert pipeline.run(colors) == {"things": []}
    assert pipeline.status([]).steps["names"].skipped == 1


def test_boxes_within_boxes_lie_in_the_whole_picture(make: Make, colors: np.ndarray) -> None:
    text = """
    [steps.outer]
    model = "finder"
    [steps.inner]
    model = "finder"
    crop = "outer"
    [steps.names]
    model = "namer"
    crop = "inner"
    """
    answer = make(text).run(colors)
    assert [len(box["inner"]) for box in answer["outer"]] == [3, 3, 3]
    inner = answer["outer"][1]["inner"][0]  # of a box of 30 by 30 at (60, 20), at a tenth of it
    assert [inner[side] for side in ("x0", "y0", "x1", "y1")] == pytest.approx(
        [63, 23, 72, 32], abs=0.1
    )
    assert [inner["names"][0]["name"] for inner in answer["outer"][2]["inner"]] == ["red"] * 3


def test_conditions_may_look_at_the_same_box(make: Make, colors: np.ndarray) -> None:
    text = f"""{CROPS}
    [steps.again]
    model = "namer-alone"
    crop = "things"
    when = ["names.label == 'green'", "names.score > 0.4"]
    """
    boxes = make(text).run(colors)["things"]
    assert [box["again"] is not None for box in boxes] == [False, True, False]


@pytest.mark.parametrize(
    ("when", "runs"),
    [
        ("things.count > 2", True),
        ("things.count > 3", False),
        ("things.count(blue) == 2", True),
        ("things.count(red) > 0", False),
        ("things.label == 'blue'", True),
        ("things.score < 0.5", False),
    ],
)
def test_a_step_runs_if_its_condition_holds(
    make: Make, colors: np.ndarray, when: str, runs: bool
) -> None:
    text = f'{CROPS}\n[steps.scene]\nmodel = "namer"\nwhen = "{when}"'
    pipeline = make(text)
    assert (pipeline.run(colors)["scene"] is not None) == runs
    assert pipeline.status([]).steps["scene"].skipped == (not runs)


def test_tensors_pass_from_step_to_step(make: Make) -> None:
    pipeline = make(SUMS)
    answer = pipeline.run({"a": rows(1, 2, 3), "b": rows(10, 20, 30), "c": rows(5, 5, 5)})
    assert list(answer) == ["second.y", "first.y"]
    assert answer["first.y"].tolist() == [[11, 22, 33]]
    assert answer["second.y"].tolist() == [[16, 27, 38]]
    assert [spec.name for spec in pipeline.inputs] == ["a", "b", "c"]
    assert not pipeline.takes_picture


def test_a_tensor_step_runs_for_each_box_whose_tensors_it_takes(
    make: Make, colors: np.ndarray
) -> None:
    text = f"""
    output = ["sums.y"]
    {CROPS}
    [steps.sums]
    model = "adder"
    inputs = {{ a = "names.y", b = "input.offset" }}
    """
    answer = make(text).run({"picture": colors, "offset": rows(1, 2, 3)})
    assert list(answer) == ["things"]  # the boxes that it speaks of
    assert list(answer["things"][0])[-2:] == ["score", "sums.y"]
    sums = np.concatenate([box["sums.y"] for box in answer["things"]])
    assert np.allclose(sums, np.eye(3) + rows(1, 2, 3), atol=1e-5)


def test_a_tensor_may_decide_whether_a_step_runs(make: Make) -> None:
    text = SUMS.replace(
        'model = "adder"\ninputs = { a = "first.y"',
        'model = "adder"\nwhen = "input.c > 0"\ninputs = { a = "first.y"',
    )
    one = rows(1, 1, 1)
    with pytest.raises(InputError, match="compares one element, c has 3"):
        make(text).run({"a": one, "b": one, "c": one})


def test_a_picture_that_can_not_be_read_fails_alone(make: Make, colors: np.ndarray) -> None:
    pipeline = make(CROPS)
    with pytest.raises(InputError, match="pipeline line: can not read picture"):
        pipeline.run(b"no picture")
    with pytest.raises(InputError, match="pipeline line: can not read picture no/such"):
        pipeline.run("no/such.jpg")
    with pytest.raises(InputError, match="'picture' is missing"):
        pipeline.run({"photo": colors})
    with pytest.raises(InputError, match="unknown input 'size'"):
        pipeline.run({"picture": colors, "size": rows(1)})
    assert names(pipeline.run(colors)["things"]) == ["blue", "green", "red"]
    snapshot = pipeline.status([]).statistics
    assert (snapshot.success_count, snapshot.failure_count) == (1, 4)


def test_a_wrong_tensor_names_the_pipeline(make: Make) -> None:
    one = rows(1, 1, 1)
    with pytest.raises(InputError, match="pipeline line: tensor 'a' must have shape"):
        make(SUMS).run({"a": np.ones(3, np.float32), "b": one, "c": one})
    with pytest.raises(EngineError, match="pipeline line, step first: "):
        make(SUMS).run(
            {"a": np.ones((2, 3), np.float32), "b": np.ones((3, 3), np.float32), "c": one}
        )


def test_a_model_that_fails_to_load_fails_its_step(
    make: Make, colors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make(CROPS)

    def fail() -> Any:
        raise UnavailableError("no memory left", hint="buy some")

    monkeypatch.setattr(pipeline._works["names"], "model", fail)
    with pytest.raises(UnavailableError, match="pipeline line, step names: no memory left") as got:
        pipeline.run(colors)
    assert got.value.hint == "buy some"
    assert pipeline.status([]).steps["names"].statistics.failure_count == 1
    assert pipeline.status([]).steps["things"].statistics.success_count == 1


def test_models_may_be_unloaded_between_steps(make: Make, colors: np.ndarray) -> None:
    pipeline = make(CROPS)
    expected = pipeline.run(colors)
    models = [work.model() for work in pipeline._works.values()]
    find = pipeline._works["names"]._find

    def unload_first(name: str) -> Any:
        for model in models:
            model.seat.evict("memory")
        return find(name)

    pipeline._works["names"]._find = unload_first
    assert pipeline.run(colors) == expected
    assert pipeline.submit(colors).result(LONG_S) == expected
    assert all(model.seat.evictions["memory"] >= 1 for model in models)


def test_statistics_count_runs_and_steps(make: Make, colors: np.ndarray) -> None:
    pipeline = make(CROPS)
    for _ in range(3):
        pipeline.run(colors)
    status = pipeline.status([])
    assert status.statistics.success_count == 3
    for step in status.steps.values():
        assert step.statistics.success_count == 3
        assert {stage: step.statistics.stages[stage].count for stage in ("input", "infer")} == {
            "input": 3,
            "infer": 3,
        }
    assert status.steps["names"].model == "namer"


def test_many_threads_get_their_own_answers(make: Make, colors: np.ndarray) -> None:
    pipeline = make(f"instances = 4\nqueue = 64\n{CROPS}", concurrency=1)
    turned = [np.roll(colors, shift, axis=2) for shift in range(3)]
    futures = [pipeline.submit(turned[number % 3]) for number in range(48)]
    expected = [names(pipeline.run(picture)["things"]) for picture in turned]
    assert expected[0] != expected[1] != expected[2]
    for number, future in enumerate(futures):
        assert names(future.result(LONG_S)["things"]) == expected[number % 3]


def test_too_many_at_once_are_refused(
    make: Make, colors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make(f"instances = 1\nqueue = 1\n{CROPS}")
    started, go = threading.Event(), threading.Event()
    find = pipeline._works["things"].model

    def wait() -> Any:
        started.set()
        assert go.wait(LONG_S)
        return find()

    monkeypatch.setattr(pipeline._works["things"], "model", wait)
    first = pipeline.submit(colors)
    assert started.wait(LONG_S)
    late = pipeline.submit(colors, timeout_us=1)
    with pytest.raises(UnavailableError, match="wait for pipeline line already") as refused:
        pipeline.submit(colors)
    assert "[pipelines.line]" in refused.value.hint
    go.set()
    assert names(first.result(LONG_S)["things"]) == ["blue", "green", "red"]
    with pytest.raises(UnavailableError, match="timeout passed"):
        late.result(LONG_S)
    assert pipeline.status([]).statistics.refused == {"full": 1, "late": 1}
    assert pipeline.submit(colors).result(LONG_S)


def test_a_closed_runtime_refuses(make: Make, colors: np.ndarray, models: Path) -> None:
    pipeline = make(CROPS)
    pipeline.close()
    for call in (pipeline.run, pipeline.submit):
        with pytest.raises(UnavailableError, match="closed"):
            call(colors)


def test_the_state_is_that_of_the_models(models: Path, declared: Callable[[str], Any]) -> None:
    with Runtime(models, pipelines={"line": declared(CROPS)}) as runtime:
        (status,) = runtime.pipeline_status()
        assert (status.state, status.reason) == (
            "staged",
            "step things: model finder is staged",
        )
        runtime.load_all()
        (status,) = runtime.pipeline_status()
        assert (status.name, status.state, status.reason) == ("line", "ready", "")
        pipeline = runtime.pipeline("line")
        assert pipeline.status([]).reason == "step things: model finder is gone"
        loaded = {model.name: model for model in runtime.status()}
        replace = msgspec.structs.replace
        newer = replace(loaded["namer"], version="2", state="failed", reason="no")
        older = [loaded["finder"], loaded["namer"], newer]
        assert pipeline.status(older).state == "ready"
        failed = pipeline.status([loaded["finder"], newer])
        assert (failed.state, failed.reason) == ("failed", "step names: model namer is failed: no")
        unloaded = replace(loaded["namer"], state="idle", is_withdrawn=True)
        gone = pipeline.status([loaded["finder"], unloaded])
        assert (gone.state, gone.reason) == ("unloaded", "step names: model namer was unloaded")
        assert pipeline.status([loaded["finder"], replace(unloaded, is_withdrawn=False)]).state == (
            "ready"
        )


def test_what_is_not_declared_is_not_found(models: Path, declared: Callable[[str], Any]) -> None:
    with Runtime(models, pipelines={"line": declared(CROPS)}) as runtime:
        with pytest.raises(NotFoundError, match="no pipeline named 'lime'") as raised:
            runtime.pipeline("lime")
        assert raised.value.hint == "there are: line"


def test_a_pipeline_can_not_take_a_models_name(
    models: Path, declared: Callable[[str], Any]
) -> None:
    with pytest.raises(SettingsError, match="pipeline namer has the name of a model"):
        Runtime(models, pipelines={"namer": declared(CROPS)})


def test_models_may_run_their_requests_in_batches(make: Make, colors: np.ndarray) -> None:
    pipeline = make(CROPS, models={"namer": ModelSettings(max_batch=2)})
    assert names(pipeline.run(colors)["things"]) == ["blue", "green", "red"]
