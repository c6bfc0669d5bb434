from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import LONG_S

from edge.bundle import pack
from edge.core.manifest import Manifest, Variant
from edge.core.tensor import TensorSpec
from edge.host import Runtime
from edge.server.application import Application
from edge.server.http.message import Head, Request, Response, Traffic
from edge.settings import ModelSettings

X, Y = (TensorSpec(name, "float32", ("batch", 2)) for name in "xy")
CALL = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


def bundle(folder: Path, name: str, version: str, engine: str = "null") -> Path:
    variant = Variant(id="v", engine=engine, precision="fp32", files=(), inputs=(X,), outputs=(Y,))
    manifest = Manifest(
        schema=1,
        name=name,
        version=version,
        task="tensors",
        profile="host",
        source_sha256="0" * 64,
        variants=(variant,),
    )
    parts = folder / "parts"
    parts.mkdir(exist_ok=True)
    return pack(manifest, parts, folder / f"{name}-{version}.edge")


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    paths = [bundle(tmp_path, "m", "1.9"), bundle(tmp_path, "m", "1.10")]
    with Runtime(*paths, bundle(tmp_path, "broken", "1", engine="no-such-engine")) as runtime:
        yield runtime


class Client:
    def __init__(self, runtime: Runtime) -> None:
        self.application = Application(runtime, lambda: Traffic({}, 1), max_body_bytes=10_000)

    def ask(self, method: str, target: str, body: Any = None, **headers: str) -> Response:
        data = b"" if body is None else json.dumps(body).encode()
        fields = {k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}
        request = Request(Head(method, target.encode(), fields), np.frombuffer(data, np.uint8))

        async def go() -> Response:
            answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
            self.application(request, answered.set_result)
            return await asyncio.wait_for(answered, 20)

        return asyncio.run(go())

    def json(self, method: str, target: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        response = self.ask(method, target, body, **headers)
        return response.status, json.loads(b"".join(response.parts))


@pytest.fixture
def client(runtime: Runtime) -> Iterator[Client]:
    runtime.load_all()
    client = Client(runtime)
    yield client
    client.application.close()


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/", "/v2/health/live", "/v2/models/stats", "/v2/models/m", "/metrics", "/"]
)
def test_what_can_be_read_answers_get_and_head_alone(client: Client, path: str) -> None:
    assert client.ask("GET", path).status == 200
    assert client.ask("HEAD", path + "?query=1").status == 200
    refused = client.ask("POST", path)
    assert refused.status == 405
    assert ("Allow", "GET") in refused.headers


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v2/repository/index"])
def test_what_is_posted_refuses_get(client: Client, path: str) -> None:
    assert client.ask("GET", path).status == 405


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/v2/nothing", 404),
        ("/v2/models", 404),
        ("/v2/models/m/nothing", 404),
        ("/v2/models/m/versions/1.9/infer/more", 404),
        ("/v2/models/nobody", 404),
        ("/v2/models/m/versions/7", 404),
        ("/v2/models/broken", 503),
        ("/v2/logging", 501),
        ("/v2/systemsharedmemory/status", 501),
        ("/v2/repository/models/m/load", 405),
        ("/v2/repository/models/m", 404),
        ("/%ff%00", 404),
    ],
)
def test_what_is_not_there_is_an_error_in_json(client: Client, path: str, status: int) -> None:
    given, answer = client.json("GET", path)
    assert given == status
    assert answer["error"]


def test_no_version_means_the_newest_and_names_are_decoded(client: Client) -> None:
    assert client.json("POST", "/v2/models/%6d/infer", CALL)[1]["model_version"] == "1.10"
    path = "/v2/models/m/versions/1.9/infer"
    assert client.json("POST", path, CALL)[1]["model_version"] == "1.9"
    assert client.json("GET", "/v2/models/m")[1]["versions"] == ["1.9", "1.10"]


def test_metadata_and_config_say_minus_one_for_a_dynamic_dimension(client: Client) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    assert client.json("GET", "/v2/models/m")[1]["inputs"] == [tensor]
    config = client.json("GET", "/v2/models/m/config")[1]
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2]}]


def test_the_server_is_ready_only_once_its_models_are_loaded(runtime: Runtime) -> None:
    client = Client(runtime)
    assert client.json("GET", "/v2/health/live")[0] == 200
    status, answer = client.json("GET", "/v2/health/ready")
    assert (status, answer["ready"]) == (400, False)
    assert answer["error"]
    runtime.load_all()
    assert client.json("GET", "/v2/health/ready")[0] == 200
    assert client.json("POST", "/v2/models/m/infer", CALL)[0] == 200
    client.application.close()


def test_readiness_says_what_runs_where_and_why(client: Client) -> None:
    status, answer = client.json("GET", "/v2/models/m/ready")
    assert (status, answer["engine"], answer["placement"]["actual"]) == (200, "null", "cpu")
    assert {"choice", "is_fallback", "precision"} <= set(answer)
    status, answer = client.json("GET", "/v2/models/broken/ready")
    assert (status, answer["state"]) == (400, "failed")
    assert answer["reason"]


def test_the_index_lists_all_models_or_those_that_are_ready(client: Client) -> None:
    _, entries = client.json("POST", "/v2/repository/index")
    assert [(e["name"], e["state"]) for e in entries] == [
        ("broken", "UNAVAILABLE"),
        ("m", "READY"),
        ("m", "READY"),
    ]
    _, ready = client.json("POST", "/v2/repository/index", {"ready": True})
    assert {entry["name"] for entry in ready} == {"m"}
    assert client.json("POST", "/v2/repository/index", [1])[0] == 400


def test_only_extensions_that_exist_are_advertised(client: Client) -> None:
    extensions = set(client.json("GET", "/v2")[1]["extensions"])
    known = {"binary_tensor_data", "model_configuration", "model_repository", "statistics"}
    assert extensions == known


def test_statistics_count_each_stage(client: Client) -> None:
    for _ in range(3):
        client.json("POST", "/v2/models/m/infer", CALL)
    client.json("POST", "/v2/models/m/infer", {"inputs": [{**CALL["inputs"][0], "shape": [2, 1]}]})
    entry = client.json("GET", "/v2/models/m/stats")[1]["model_stats"][0]
    counts = {stage: pair["count"] for stage, pair in entry["inference_stats"].items()}
    assert (counts["success"], counts["fail"]) == (3, 1)
    assert counts["compute_input"] == counts["compute_infer"] == counts["compute_output"] == 3
    names = [e["name"] for e in client.json("GET", "/v2/models/stats")[1]["model_stats"]]
    assert names == ["m"]  # the version that is active; the other one was never loaded


@pytest.mark.parametrize("value", ["-1", "x", "1" * 99, "²", "9999"])
def test_a_header_length_that_is_none_is_refused(client: Client, value: str) -> None:
    status, answer = client.json(
        "POST", "/v2/models/m/infer", CALL, inference_header_content_length=value
    )
    assert status == 400
    assert "Inference-Header-Content-Length" in answer["error"]


def test_a_quick_model_moves_to_the_event_loop_and_a_slow_one_back_to_its_thread(
    client: Client, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = runtime.model("m")
    threads: list[str] = []
    session = model.opened.session
    run = session._run

    def watched(feeds: Any) -> Any:
        threads.append(threading.current_thread().name)
        return run(feeds)

    def infer(infer_ns: int) -> str:
        for _ in range(32):  # how often the pace is looked at
            model.statistics.success(infer_ns)
        for _ in range(33):
            client.json("POST", "/v2/models/m/infer", CALL)
            for _ in range(20):
                model.statistics.success(infer_ns)
        return threads[-1]

    monkeypatch.setattr(session, "_run", watched)
    client.json("POST", "/v2/models/m/infer", CALL)
    assert threads == ["edge-m_0"]
    assert infer(1_000) == threading.main_thread().name
    assert infer(5_000_000) == "edge-m_0"


@pytest.fixture
def held(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The model ``m`` answers nobody until the event is set."""
    session = runtime.model("m").opened.session
    run, gate = session._run, threading.Event()

    def wait(feeds: Any) -> Any:
        assert gate.wait(LONG_S)
        return run(feeds)

    monkeypatch.setattr(session, "_run", wait)
    yield gate
    gate.set()


def with_demands(**parameters: int) -> dict[str, Any]:
    return {**CALL, "parameters": parameters}


@pytest.fixture
def batching(tmp_path: Path) -> Iterator[Runtime]:
    settings = {"m": ModelSettings(max_batch=4, queue=5), "nobody": ModelSettings()}
    with Runtime(bundle(tmp_path, "m", "1"), models=settings) as runtime:
        yield runtime


class TestScheduling:
    """What requests ask for, and what settings allow."""

    @pytest.fixture
    def runtime(self, batching: Runtime) -> Runtime:
        return batching

    def test_overload_is_503_with_what_to_do(
        self, client: Client, runtime: Runtime, held: threading.Event
    ) -> None:
        model = runtime.model("m")
        feeds = {"x": np.ones((1, 2), np.float32)}
        waiting = [model.submit(feeds)]
        while model._scheduler._queue.rows:  # until it runs
            pass
        waiting += [model.submit(feeds) for _ in range(5)]
        status, answer = client.json("POST", "/v2/models/m/infer", CALL)
        assert status == 503
        assert answer["error"].startswith("5 requests wait for m already (send less at once")
        late = model.submit(feeds, priority=1, timeout_us=1)  # pushes the last of the others out
        held.set()
        assert [future.exception(LONG_S) is None for future in waiting] == [True] * 5 + [False]
        assert "timeout passed" in str(late.exception(LONG_S))
        _, answer = client.json("GET", "/v2/models/m/stats")
        (stats,) = answer["model_stats"]
        assert (stats["inference_count"], stats["execution_count"]) == (5, 2)
        sizes = [(one["batch_size"], one["compute_infer"]["count"]) for one in stats["batch_stats"]]
        assert sizes == [(1, 1), (4, 1)]

    @pytest.mark.parametrize("name", ["priority", "timeout"])
    def test_demands_reach_the_queue(
        self, client: Client, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        seen: dict[str, int] = {}
        model = runtime.model("m")
        submit = model.submit

        def watched(feeds: Any, **demands: int) -> Any:
            seen.update(demands)
            return submit(feeds, **demands)

        monkeypatch.setattr(model, "submit", watched)
        status, _ = client.json("POST", "/v2/models/m/infer", with_demands(**{name: 30_000_000}))
        assert status == 200
        assert seen == {"priority": 0, "timeout_us": 0} | {
            {"timeout": "timeout_us"}.get(name, name): 30_000_000
        }

    @pytest.mark.parametrize("demands", [{"priority": -1}, {"timeout": -1}, {"timeout": "soon"}])
    def test_demands_that_are_none_are_refused(
        self, client: Client, demands: dict[str, Any]
    ) -> None:
        status, _ = client.json("POST", "/v2/models/m/infer", with_demands(**demands))
        assert status == 400


def test_settings_for_a_model_that_is_not_there_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Runtime(bundle(tmp_path, "m", "1"), models={"nobody": ModelSettings()}):
        assert "settings for 'nobody', but no model of that name" in caplog.text
