"""What the network sees of a model whose engine is in the making."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
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

X, Y = (TensorSpec(name, "float32", (1, 2)) for name in "xy")
CALL = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    variants = tuple(
        Variant(
            id=f"{engine}-int8",
            engine=engine,
            precision="int8",
            files=(),
            inputs=(X,),
            outputs=(Y,),
            chosen=engine == "forge",
        )
        for engine in ("forge", "null")
    )
    manifest = Manifest(
        schema=1,
        name="m",
        version="1",
        task="tensors",
        profile="host",
        source_sha256="0" * 64,
        variants=variants,
    )
    (tmp_path / "parts").mkdir()
    return pack(manifest, tmp_path / "parts", tmp_path / "m.edge")


Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def serve(bundle: Path, forge: Any) -> Iterator[Callable[[Any], Ask]]:
    """Load the bundle, wait until its build has begun, and give what asks the server."""
    opened: list[Any] = []

    def begin(fallback: Any) -> Ask:
        runtime = Runtime(bundle, fallback=fallback)
        application = Application(runtime, lambda: Traffic({}, 1), max_body_bytes=10_000)
        opened.extend((application, runtime))
        runtime.load_all()
        assert forge.started.wait(LONG_S)

        def ask(method: str, target: str, body: Any = None) -> tuple[int, Any]:
            data = b"" if body is None else json.dumps(body).encode()
            head = Head(method, target.encode(), {})

            async def go() -> Response:
                answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
                application(Request(head, np.frombuffer(data, np.uint8)), answered.set_result)
                return await asyncio.wait_for(answered, LONG_S)

            response = asyncio.run(go())
            text = b"".join(response.parts)
            return response.status, text.decode() if target == "/metrics" else json.loads(text)

        return ask

    yield begin
    for one in opened:
        one.close()


REASON = "forge-int8 is being built: 42 % (hammering)"


def test_a_model_that_nothing_serves_is_loading_and_says_how_far_it_is(
    serve: Callable[[Any], Ask], forge: Any
) -> None:
    ask = serve("deny")
    status, answer = ask("GET", "/v2/models/m/ready")
    assert (status, answer["state"], answer["reason"]) == (400, "building", REASON)
    assert answer["building"] == {"variant": "forge-int8", "phase": "hammering", "share": 0.42}
    assert answer["error"] == f"model m 1 is building: {REASON}"
    assert ask("GET", "/v2/health/ready")[0] == 400
    assert ask("GET", "/v2/health/live")[0] == 200
    (entry,) = ask("POST", "/v2/repository/index")[1]
    assert (entry["state"], entry["reason"]) == ("LOADING", REASON)
    assert ask("POST", "/v2/repository/index", {"ready": True})[1] == []
    for method, target, body in (
        ("GET", "/v2/models/m", None),
        ("POST", "/v2/models/m/infer", CALL),
    ):
        assert ask(method, target, body) == (503, {"error": f"model m 1 is building: {REASON}"})
    text = ask("GET", "/metrics")[1]
    assert 'edge_model_state{model="m",version="1",state="building"} 1\n' in text
    progress = 'edge_model_build_progress_ratio{model="m",version="1",variant="forge-int8"} 0.42\n'
    assert progress in text
    forge.finish()
    assert ask("GET", "/v2/models/m/ready")[0] == 200
    assert ask("GET", "/v2/health/ready")[0] == 200
    assert "edge_model_build_progress_ratio{" not in ask("GET", "/metrics")[1]


def test_a_fallback_is_ready_and_names_what_is_built_until_that_takes_over(
    serve: Callable[[Any], Ask], forge: Any
) -> None:
    ask = serve("allow")
    status, answer = ask("GET", "/v2/models/m/ready")
    assert (status, answer["state"], answer["engine"]) == (200, "ready", "null")
    assert answer["is_fallback"]
    assert answer["reason"] == REASON
    (entry,) = ask("POST", "/v2/repository/index")[1]
    assert (entry["state"], entry["reason"]) == ("READY", REASON)
    assert ask("POST", "/v2/models/m/infer", CALL)[0] == 200
    assert ask("GET", "/v2/models/m")[1]["platform"] == "null"
    text = ask("GET", "/metrics")[1]
    assert 'state="ready"} 1\n' in text
    assert 'variant="forge-int8"} 0.42\n' in text
    # A label that changed with each percent would be a new series each time.
    assert "42 %" not in text
    forge.finish()
    assert ask("POST", "/v2/models/m/infer", CALL)[0] == 200
    assert ask("GET", "/v2/models/m")[1]["platform"] == "forge"
    answer = ask("GET", "/v2/models/m/ready")[1]
    assert (answer["engine"], answer["is_fallback"], answer["reason"]) == ("forge", False, "")
    assert answer["building"] is None
