"""Models that are loaded when they are used, and by request."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import LONG_S, wait_until

from edge.core.tensor import TensorSpec
from edge.host import Runtime
from edge.server.application import Application
from edge.server.http.message import Head, Request, Response, Traffic
from edge.server.inference import Served

triton = pytest.importorskip("tritonclient.http")
from tritonclient.utils import InferenceServerException  # noqa: E402

X, Y = (TensorSpec(name, "float32", ("batch", 2)) for name in "xy")
CALL = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


@pytest.fixture
def folder(tmp_path: Path, pack_null: Any) -> Path:
    for name in ("a", "b"):
        pack_null(tmp_path, name)
    return tmp_path


class Asked:
    """Asks an application on a loop of its own; several requests may run at once."""

    def __init__(self, runtime: Runtime, *, may_control: bool = True) -> None:
        self.application = Application(
            runtime, lambda: Traffic({}, 1), max_body_bytes=10_000, may_control=may_control
        )

    def __call__(self, *requests: tuple[str, str, Any]) -> list[Response]:
        async def one(method: str, target: str, body: Any) -> Response:
            data = b"" if body is None else json.dumps(body).encode()
            request = Request(Head(method, target.encode(), {}), np.frombuffer(data, np.uint8))
            answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
            self.application(request, answered.set_result)
            return await asyncio.wait_for(answered, LONG_S)

        async def go() -> list[Response]:
            return await asyncio.gather(*(one(*request) for request in requests))

        return asyncio.run(go())


def test_a_model_is_loaded_by_its_first_request_once(folder: Path) -> None:
    with Runtime(folder) as runtime:
        asked = Asked(runtime)
        answers = asked(*[("POST", "/v2/models/a/infer", CALL)] * 8, ("GET", "/v2/models/a", None))
        assert [answer.status for answer in answers] == [200] * 9
        states = {status.name: (status.state, status.loads) for status in runtime.status()}
        assert states == {"a": ("ready", 1), "b": ("staged", 0)}
        asked.application.close()


def test_a_model_that_was_evicted_answers_and_is_ready(folder: Path) -> None:
    with Runtime(folder) as runtime:
        asked = Asked(runtime)
        runtime.load_all()
        runtime.model("a").seat.evict("room")
        ready, index, metadata, answer = asked(
            ("GET", "/v2/models/a/ready", None),
            ("POST", "/v2/repository/index", None),
            ("GET", "/v2/models/a", None),
            ("POST", "/v2/models/a/infer", CALL),
        )
        assert json.loads(ready.parts[0])["state"] == "idle"
        assert (ready.status, metadata.status, answer.status) == (200, 200, 200)
        assert [entry["state"] for entry in json.loads(index.parts[0])] == ["READY", "READY"]
        (metrics,) = asked(("GET", "/metrics", None))
        text = bytes(metrics.parts[0]).decode()
        assert 'edge_model_evictions_total{model="a",version="1",reason="room"} 1' in text
        assert 'edge_model_loads_total{model="a",version="1"} 2' in text
        assert "edge_memory_budget_bytes " in text
        asked.application.close()


def test_clients_control_nothing_unless_they_are_allowed_to(folder: Path) -> None:
    with Runtime(folder) as runtime:
        asked = Asked(runtime, may_control=False)
        (answer,) = asked(("POST", "/v2/repository/models/a/unload", None))
        assert answer.status == 403
        assert "control = true" in json.loads(answer.parts[0])["error"]
        asked.application.close()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("a/sink", None, 404),
        ("nobody/load", None, 404),
        ("a/load", [1], 400),
        ("a/load", {"parameters": {"config": "{}"}}, 501),
        ("a/unload", {"parameters": {"unload_dependents": True}}, 200),
    ],
)
def test_what_can_not_be_done_to_a_model_is_said(
    folder: Path, path: str, body: Any, status: int
) -> None:
    with Runtime(folder) as runtime:
        asked = Asked(runtime)
        (answer,) = asked(("POST", f"/v2/repository/models/{path}", body))
        assert answer.status == status
        asked.application.close()


def test_a_version_that_is_named_is_activated(tmp_path: Path, pack_null: Any) -> None:
    for version in ("1", "2"):
        pack_null(tmp_path, "a", version)
    with Runtime(tmp_path) as runtime:
        asked = Asked(runtime)
        runtime.load_all()
        body = {"parameters": {"version": "1"}}
        loaded, answer, missing = (
            asked(request)[0]
            for request in (
                ("POST", "/v2/repository/models/a/load", body),
                ("POST", "/v2/models/a/infer", CALL),
                ("POST", "/v2/repository/models/a/load", {"parameters": {"version": "7"}}),
            )
        )
        assert (loaded.status, missing.status) == (200, 404)
        assert json.loads(answer.parts[0])["model_version"] == "1"
        asked.application.close()


def test_a_server_takes_in_what_comes_into_its_folder(
    folder: Path, start: Any, tmp_path_factory: Any, pack_null: Any
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "edge.toml").write_text("[serve]\nwatch_s = 0.02\n")
    live = start(folder, cwd=elsewhere)
    live.wait_until_ready()
    assert live.infer("a", CALL).json["model_version"] == "1"
    os.replace(pack_null(elsewhere, "a", "2"), folder / "a-2.edge")
    wait_until(lambda: live.infer("a", CALL).json["model_version"] == "2")


def test_tritons_client_unloads_and_loads(folder: Path, start: Any, tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text("[serve]\ncontrol = true\n")
    live = start(folder, cwd=tmp_path)
    live.wait_until_ready()
    client = triton.InferenceServerClient(live.netloc)
    given = triton.InferInput("x", [1, 2], "FP32").set_data_from_numpy(np.ones((1, 2), np.float32))
    client.load_model("a")
    client.unload_model("a")
    assert not client.is_model_ready("a")
    states = {entry["name"]: entry for entry in client.get_model_repository_index()}
    assert (states["a"]["state"], states["a"]["reason"]) == ("UNAVAILABLE", "unloaded")
    with pytest.raises(InferenceServerException, match="is unloaded") as refused:
        client.infer("a", [given])
    assert refused.value.status() == "503"
    client.load_model("a")
    assert client.is_model_ready("a")
    assert client.infer("a", [given]).as_numpy("y").shape == (1, 2)
    client.close()


def test_a_request_whose_version_goes_in_between_is_answered_by_the_next(
    tmp_path: Path, pack_null: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_null(tmp_path, "a", "1")
    newer = pack_null(tmp_path, "a", "2")
    with Runtime(tmp_path, watch_s=60) as runtime:
        runtime.load_all()
        asked, submit = Asked(runtime), Served.submit

        def late(served: Served, call: Any) -> Any:
            if newer.exists():
                newer.unlink()
                runtime._watch.look()  # type: ignore[union-attr]
            return submit(served, call)

        monkeypatch.setattr(Served, "submit", late)
        (answer,) = asked(("POST", "/v2/models/a/infer", CALL))
        assert json.loads(answer.parts[0])["model_version"] == "1"
        asked.application.close()
