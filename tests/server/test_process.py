"""`edge serve` as a process: what it says at the start, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import LONG_S, wait_until

EXIT_USAGE, EXIT_UNAVAILABLE = 2, 3
ONES = {"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [1] * 16}
TWOS = {**ONES, "data": [2] * 16}

# Is at work on twos from the file "arrived" on until there is a file "go".
HELD = """
import sys, time
from pathlib import Path

from edge.cli._main import main
from runtimes.null import NullSession

run = NullSession._run

def held(session, feeds):
    if feeds["x"].flat[0] == 2:
        Path("arrived").touch()
        while not Path("go").exists():
            time.sleep(0.01)
    return run(session, feeds)

NullSession._run = held
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def send(connection: Any, model: str, request: Any) -> None:
    body = json.dumps(request).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
    connection.send(f"{head}\r\n\r\n".encode() + body)


def refuses_connections(live: Any) -> bool:
    try:
        live.connect().close()
    except ConnectionError:
        return True
    return False


@pytest.fixture
def serving(start: Any, models: Path, tmp_path: Path) -> Iterator[Any]:
    """A server of its own, for tests that end it."""
    live = start(models / "simple.edge", models / "null.edge", cwd=tmp_path)
    live.wait_until_ready()
    yield live
    live.process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(serving: Any, number: int) -> None:
    serving.process.send_signal(number)

    output = serving.output()

    assert serving.process.returncode == 0, output
    assert "Traceback" not in output


def test_a_drain_finishes_what_is_in_flight_and_refuses_what_is_new(
    start: Any, models: Path, tmp_path: Path
) -> None:
    (tmp_path / "edge.toml").write_text(f"[serve]\ndrain_s = {LONG_S}\n")
    live = start(models / "null.edge", cwd=tmp_path, program=HELD)
    live.wait_until_ready()
    with live.connect() as busy, live.connect() as kept:
        send(kept, "null", {"inputs": [ONES]})
        assert kept.answer().status == 200
        send(busy, "null", {"inputs": [TWOS]})
        wait_until((tmp_path / "arrived").exists)
        live.process.terminate()
        wait_until(lambda: refuses_connections(live))
        send(kept, "null", {"inputs": [ONES]})
        refused = kept.answer()
        assert refused.status == 503
        assert "shutting down" in refused.error
        (tmp_path / "go").touch()
        answer = busy.answer()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
    output = live.output()
    assert live.process.returncode == 0, output


def test_a_drain_ends_in_time_whatever_is_still_at_work(
    start: Any, models: Path, tmp_path: Path
) -> None:
    (tmp_path / "edge.toml").write_text("[serve]\ndrain_s = 0.2\n")
    live = start(models / "null.edge", cwd=tmp_path, program=HELD)
    live.wait_until_ready()
    with live.connect() as connection:
        send(connection, "null", {"inputs": [TWOS]})
        wait_until((tmp_path / "arrived").exists)
        live.process.terminate()
        output = live.output()
    assert live.process.returncode == 0, output
    assert "1 request" in output


def test_one_bad_model_leaves_the_others_alone(start: Any, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(models / "null.edge", folder)
    damaged = bytearray((models / "simple.edge").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder / "simple.edge").write_bytes(damaged)

    live = start(folder, cwd=tmp_path)
    live.wait_until_ready()

    assert live.infer("null", {"inputs": [ONES]}).status == 200
    assert live.get("/v2/health/live").status == 200
    assert live.get("/v2/health/ready").status == 200
    assert live.get("/v2/models/simple/ready").status == 400
    refused = live.infer("simple", {"inputs": []})
    assert refused.status == 503
    assert "simple.edge" in refused.error
    index = live.request("POST", "/v2/repository/index").json
    states = {entry["name"]: (entry["state"], bool(entry["reason"])) for entry in index}
    assert states == {"null": ("READY", False), "simple": ("UNAVAILABLE", True)}
    metrics = live.get("/metrics").body.decode()
    assert re.search(r'edge_model_state{model="simple",.*state="failed"} 1', metrics)


def test_it_says_what_runs_each_model_and_why(serving: Any) -> None:
    wait_until(lambda: any(line.startswith("serving") for line in serving.lines))
    serving.process.terminate()
    output = serving.output()

    assert serving.netloc in output
    assert "null" in output
    assert "onnxruntime" in output
    assert "first by the order of engines" in output


def test_an_absent_broker_stops_nothing(start: Any, models: Path, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{unused.getsockname()[1]}"
        live = start(models / "null.edge", "--mqtt", url, cwd=tmp_path)
        live.wait_until_ready()
        assert live.infer("null", {"inputs": [ONES]}).status == 200
        told = live.get("/metrics").body.decode()
        assert f'edge_mqtt_broker_info{{broker="{url}"' in told
        assert "edge_mqtt_connections_total 0" in told
        live.process.terminate()
        output = live.output()
    assert live.process.returncode == 0, output


def serve(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A start that is to fail."""
    command = [sys.executable, "-m", "edge", "serve", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=LONG_S, env=dict(os.environ)
    )


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(
    models: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = serve(models / "null.edge", "--http", address, cwd=tmp_path)

    assert done.returncode == EXIT_UNAVAILABLE
    assert address in done.stderr
    assert "hint:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to serve"),
        (("absent.edge",), "absent.edge"),
        (("null.edge", "--http", "8000"), "8000"),
        (("null.edge", "--http", "127.0.0.1:99999"), "99999"),
        (("null.edge", "--config", "absent.toml"), "absent.toml"),
    ],
)
def test_wrong_usage_ends_with_2(
    models: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    shutil.copy(models / "null.edge", tmp_path)

    done = serve(*arguments, cwd=tmp_path)

    assert done.returncode == EXIT_USAGE
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_prometheus_can_read_the_metrics(serving: Any) -> None:
    serving.infer("null", {"inputs": [ONES]})
    serving.infer("null", {"inputs": []})

    answer = serving.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    kinds, samples = {}, {}
    for line in answer.body.decode().splitlines():
        if line.startswith("# TYPE "):
            name, kind = line[7:].split()
            kinds[name] = kind
        elif not line.startswith("#"):
            key, value = line.rsplit(" ", 1)
            samples[key] = float(value)
            assert key.startswith("edge_")
    null = 'model="null",version="3"'
    assert samples[f"edge_model_inferences_total{{{null}}}"] == 1
    assert samples[f"edge_model_failures_total{{{null}}}"] == 1
    assert samples[f'edge_model_stage_seconds_count{{{null},stage="infer"}}'] == 1
    assert samples["edge_process_resident_memory_bytes"] > 10e6
    assert samples["edge_process_cpu_seconds_total"] > 0
    assert samples['edge_http_responses_total{code="200"}'] >= 1
    assert samples['edge_http_responses_total{code="400"}'] == 1
    assert any('actual="cpu"' in key for key in samples)
    families = {key.partition("{")[0] for key in samples}
    for family in families:
        assert any(
            family.removesuffix(end) in kinds for end in ("", "_bucket", "_sum", "_count")
        ), family
