"""A server on a device that throttles, whose files a test writes."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from patience import LONG_S, wait_until

import edge
from edge.host.fairness import FairShare
from edge.server.inference import Pace, Served

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
REQUEST = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


def level(live: Any) -> int:
    found = re.search(r"^edge_power_level (\d)$", live.get("/metrics").body.decode(), re.MULTILINE)
    assert found
    return int(found[1])


def test_device_that_throttles_is_held_back_and_says_so(
    start: Any, pack_null: Any, tmp_path: Path
) -> None:
    board = tmp_path / "board" / THROTTLED
    board.parent.mkdir(parents=True)
    board.write_text("0\n")
    power = {"ROOT": str(tmp_path / "board"), "INTERVAL_S": "0.05", "POLICY": "latency"}
    env = {**os.environ, **{f"EDGE_POWER_{name}": value for name, value in power.items()}}
    live = start(pack_null(tmp_path, "null"), cwd=tmp_path, env=env)
    live.wait_until_ready()
    answers: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            answers.append(live.infer("null", REQUEST).status)

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        wait_until(lambda: len(answers) >= 200)  # a quick model: on the event loop
        assert level(live) == 0
        board.write_text("8\n")
        wait_until(lambda: level(live) == 2)
        strained = live.get("/v2/health/ready").json["power"]
        assert (strained["power_level"], strained["power_cause"]) == ("rate", "thermal")
        assert strained["power_limit_batches_per_s"] > 0
        before = len(answers)

        def go_on() -> bool:
            assert live.get("/v2/health/live").status == 200
            return len(answers) >= before + 50

        wait_until(go_on)  # they wait for their turns, the event loop does not
    finally:
        is_over.set()
        for client in clients:
            client.join(LONG_S)
    assert set(answers) == {200}
    live.process.send_signal(signal.SIGTERM)
    output = live.output()
    assert live.process.returncode == 0, output
    assert "the soft limit of the temperature is reached" in output
    assert "Traceback" not in output


def test_a_quick_model_is_not_run_on_the_event_loop_while_it_has_to_wait(
    pack_null: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fair = FairShare()
    monkeypatch.setattr("edge.host.oversight.FairShare", lambda concurrency: fair)
    monkeypatch.setattr(Pace, "step", lambda self: True)
    call: Any = SimpleNamespace(feeds={"x": np.ones((1, 2), np.float32)})
    with edge.Runtime(pack_null(tmp_path, "null"), concurrency=1) as runtime:
        served = Served(runtime.model("null"))
        assert served.infer_here(call) is not None
        fair.limit(1, batches_per_s=0.001)
        assert served.infer_here(call) is None
        fair.limit()
        assert served.infer_here(call) is not None
