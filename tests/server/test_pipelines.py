"""Pipelines from `edge.toml` to NVIDIA's own client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import color_models
import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
triton = pytest.importorskip("tritonclient.http")
from tritonclient.utils import InferenceServerException  # noqa: E402

SETTINGS = """
[pipelines.look.steps.things]
model = "finder"
[pipelines.look.steps.names]
model = "namer"
crop = "things"
[pipelines.look.steps.crowd]
model = "namer"
when = "things.count > 99"

[pipelines.sum.steps.second]
model = "adder"
inputs = { a = "first.y", b = "input.c" }
when = "input.on == 1"
[pipelines.sum.steps.first]
model = "adder"
inputs = { a = "input.a", b = "input.b" }
[pipelines.sum.steps.switch]
model = "switch"
inputs = { on = "input.on" }
"""
PATH = "/v2/models/look"


@pytest.fixture(scope="module")
def live(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pipelines")
    (folder / "models").mkdir()
    color_models.pack_all(folder / "models")
    (folder / "edge.toml").write_text(SETTINGS)
    live = start("models", cwd=folder)
    live.wait_until_ready()
    return live


@pytest.fixture
def client(live: Any) -> Iterator[Any]:
    client = triton.InferenceServerClient(live.netloc)
    yield client
    client.close()


def colors_of(boxes: list[dict[str, Any]]) -> list[str]:
    return [box["names"][0]["name"] for box in boxes]


def infer(client: Any, name: str, inputs: dict[str, np.ndarray], **options: Any) -> Any:
    tensors = []
    for key, array in inputs.items():
        tensor = triton.InferInput(key, list(array.shape), KINDS[array.dtype.name])
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return client.infer(name, tensors, **options)


def said(answer: Any, name: str) -> Any:
    (text,) = answer.as_numpy(name)
    return json.loads(text)


KINDS = {"uint8": "UINT8", "float32": "FP32"}


def file_of(picture: np.ndarray, suffix: str = ".png") -> np.ndarray:
    done, data = cv2.imencode(suffix, picture)
    assert done
    return np.asarray(data).reshape(-1)


def row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


SUM = {"a": row(1, 2, 3), "b": row(1, 1, 1), "c": row(10, 10, 10)}


def test_a_picture_is_answered_as_a_file_or_as_pixels(client: Any) -> None:
    picture = color_models.picture()
    for given in (file_of(picture), picture, file_of(picture)[None], picture[None]):
        answer = infer(client, "look", {"picture": given})
        assert colors_of(said(answer, "things")) == ["blue", "green", "red"]
        assert said(answer, "crowd") is None
        assert answer.get_response()["model_name"] == "look"


def test_a_file_may_be_posted_as_it_is(live: Any) -> None:
    body = file_of(color_models.picture(), ".jpg").tobytes()
    headers = {"Inference-Header-Content-Length": "0"}
    answer = live.request("POST", f"{PATH}/infer", body, headers)
    assert answer.status == 200, answer.body
    size = int(answer.headers["inference-header-content-length"])
    first = json.loads(answer.body[:size])["outputs"][0]
    assert (first["name"], first["datatype"], first["shape"]) == ("things", "BYTES", [1])


def test_json_all_the_way(live: Any) -> None:
    picture = color_models.picture()
    tensor = {"name": "picture", "datatype": "UINT8", "shape": [100, 100, 3]}
    request = {
        "id": "7",
        "inputs": [{**tensor, "data": picture.reshape(-1).tolist()}],
        "outputs": [{"name": "things"}],
    }
    answer = live.infer("look", request).json
    assert answer["id"] == "7"
    (output,) = answer["outputs"]
    assert colors_of(json.loads(output["data"][0])) == ["blue", "green", "red"]


def test_tensors_go_in_and_come_out(client: Any) -> None:
    answer = infer(client, "sum", {**SUM, "on": row(1)})
    assert answer.as_numpy("first.y").tolist() == [[2, 3, 4]]
    assert answer.as_numpy("second.y").tolist() == [[12, 13, 14]]
    off = infer(client, "sum", {**SUM, "on": row(0)})
    assert off.as_numpy("second.y").shape == (0,)
    assert off.as_numpy("first.y").tolist() == [[2, 3, 4]]


def test_metadata_says_what_goes_in_and_out(client: Any) -> None:
    look = client.get_model_metadata("look")
    assert look["platform"] == "pipeline"
    assert look["versions"] == ["1"]
    assert look["inputs"] == [{"name": "picture", "datatype": "UINT8", "shape": [-1]}]
    assert look["outputs"] == [
        {"name": name, "datatype": "BYTES", "shape": [1]} for name in ("things", "crowd")
    ]
    total = client.get_model_metadata("sum", "1")
    assert {entry["name"] for entry in total["inputs"]} == {"a", "b", "c", "on"}
    assert {"name": "first.y", "datatype": "FP32", "shape": [-1, 3]} in total["outputs"]
    config = client.get_model_config("look")
    assert (config["max_batch_size"], config["input"][0]["data_type"]) == (0, "TYPE_UINT8")


def test_it_is_ready_and_in_the_index(client: Any, live: Any) -> None:
    assert client.is_model_ready("look")
    assert live.get(f"{PATH}/ready").json["steps"] == {
        "things": "finder",
        "names": "namer",
        "crowd": "namer",
    }
    index = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    assert index["look"] == index["sum"] == index["finder"] == "READY"
    assert live.get("/").json["pipelines"] == ["look", "sum"]


def test_statistics_and_metrics_count_runs_and_steps(client: Any, live: Any) -> None:
    def count() -> int:
        (stats,) = client.get_inference_statistics("look")["model_stats"]
        return int(stats["inference_count"])

    before = count()
    infer(client, "look", {"picture": color_models.picture()})
    assert count() == before + 1
    listed = client.get_inference_statistics()["model_stats"]
    assert {"look", "sum", "finder"} <= {entry["name"] for entry in listed}
    text = live.get("/metrics").body.decode()
    step = 'pipeline="look",step="names",model="namer"'
    assert f'edge_pipeline_runs_total{{pipeline="look"}} {before + 1}' in text
    assert f"edge_pipeline_step_runs_total{{{step}}} {before + 1}" in text
    assert f'edge_pipeline_step_stage_seconds_count{{{step},stage="infer"}} {before + 1}' in text
    assert 'edge_pipeline_state{pipeline="look",state="ready"} 1' in text


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"picture": np.zeros(100, np.uint8)}, "pipeline look: can not read picture"),
        ({"picture": np.zeros((4, 4, 7), np.uint8)}, "pipeline look: a picture must have shape"),
        ({"picture": np.zeros((2, 4), np.uint8)}, "send the bytes of a picture file"),
        ({"picture": row(1)}, "'picture' of look is UINT8, got FP32"),
        ({"photo": np.zeros(3, np.uint8)}, "look has no input 'photo'"),
    ],
)
def test_what_is_wrong_is_said_and_the_next_is_served(
    client: Any, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InferenceServerException) as raised:
        infer(client, "look", inputs)
    assert message in str(raised.value)
    answer = infer(client, "look", {"picture": color_models.picture()})
    assert colors_of(said(answer, "things")) == ["blue", "green", "red"]


def test_errors_say_which_step_failed(client: Any) -> None:
    with pytest.raises(InferenceServerException) as raised:
        infer(
            client,
            "sum",
            {
                **SUM,
                "b": np.ones((2, 3), np.float32),
                "a": np.ones((3, 3), np.float32),
                "on": row(1),
            },
        )
    assert "pipeline sum, step first: " in str(raised.value)
    with pytest.raises(InferenceServerException, match="'c' is missing"):
        infer(client, "sum", {"a": row(1, 1, 1), "b": row(1, 1, 1), "on": row(1)})


def test_what_is_not_there_is_not_found(live: Any) -> None:
    assert live.get(f"{PATH}/versions/2").status == 404
    assert live.get(f"{PATH}/colour").status == 404
    assert live.get("/v2/models/lock").status == 404
    assert live.get(f"{PATH}/infer").status == 405


def test_many_at_once_get_their_own_answers(live: Any) -> None:
    with triton.InferenceServerClient(live.netloc, concurrency=8) as client:
        waiting = []
        for number in range(40):
            picture = np.roll(color_models.picture(), number % 3, axis=2)
            tensor = triton.InferInput("picture", list(picture.shape), "UINT8")
            tensor.set_data_from_numpy(picture)
            waiting.append(client.async_infer("look", [tensor]))
        order = ["blue", "green", "red"]
        for number, request in enumerate(waiting):
            expected = [order[(index + number) % 3] for index in range(3)]
            assert colors_of(said(request.get_result(), "things")) == expected


def test_a_pipeline_that_makes_no_sense_stops_the_start(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    color_models.pack_all(tmp_path / "models")
    wrong = SETTINGS.replace('crop = "things"', 'crop = "thinks"')
    (tmp_path / "edge.toml").write_text(wrong)
    live = start("models", cwd=tmp_path)
    assert "pipeline look, step names: there is no step 'thinks'" in live.output()
    assert live.process.returncode == 2
