"""A server on a machine whose energy counter a test advances."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from patience import LONG_S, wait_until

RAPL = "sys/class/powercap/intel-rapl:0"
WATTS = 20.0
REQUEST = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


class Meter:
    """A package that draws a steady power, by a counter that a thread advances."""

    def __init__(self, root: Path) -> None:
        self._folder = root / RAPL
        self._folder.mkdir(parents=True)
        (self._folder / "name").write_text("package-0\n")
        (self._folder / "max_energy_range_uj").write_text("262143328850\n")
        self._is_over = threading.Event()
        self._advance()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(LONG_S)

    def _run(self) -> None:
        while not self._is_over.wait(0.005):
            self._advance()

    def _advance(self) -> None:
        file = self._folder / "next"
        file.write_text(f"{int(time.monotonic() * WATTS * 1e6) % 262143328850}\n")
        file.replace(self._folder / "energy_uj")


@pytest.fixture
def serve(start: Any, pack_null: Any, tmp_path: Path) -> Any:
    def serve(**settings: str) -> Any:
        given = {"POWER_ROOT": str(tmp_path / "machine"), "POWER_INTERVAL_S": "0.05", **settings}
        env = {**os.environ, **{f"EDGE_{name}": value for name, value in given.items()}}
        live = start(pack_null(tmp_path, "null"), cwd=tmp_path, env=env)
        live.wait_until_ready()
        return live

    return serve


def metered(live: Any) -> dict[str, Any]:
    """What inferences cost, once they have, and the counter's thread came late no more."""
    told: dict[str, Any] = {}

    def is_metered() -> bool:
        for _ in range(20):
            assert live.infer("null", REQUEST).status == 200
        answer = live.get("/v2/cost")
        assert answer.status == 200
        told.update(answer.json)
        costs = told["models"] and told["models"][0].get("joules_per_inference", 0) > 0
        return costs and told["power_mean_watts"] == pytest.approx(WATTS, rel=0.5)

    wait_until(is_metered, f"it is not metered: {told}")
    return told


def test_energy_and_money_of_inferences_are_told(serve: Any, tmp_path: Path) -> None:
    prices = {"COST_CURRENCY": "EUR", "COST_PER_KWH": "0.36"}
    with Meter(tmp_path / "machine"):
        live = serve(**prices, COST_DEVICE_PRICE="500", COST_DEVICE_YEARS="5")
        told = metered(live)
        text = live.get("/metrics").body.decode()
    assert told["energy_source"] == "counter"
    assert told["energy_rail"] == "package-0"
    model = told["models"][0]
    assert model["inference_count"] > 0
    assert model["joules_per_inference"] * model["inference_count"] == pytest.approx(
        model["energy_joules"], rel=0.05
    )
    full = model["energy_cost_per_million_full_load_eur"]
    assert full == pytest.approx(model["joules_per_inference"] * 0.1, rel=1e-3)
    assert model["cost_per_million_eur"] > model["cost_per_million_full_load_eur"]
    assert 'edge_energy_source_info{source="counter",rail="package-0",why=""} 1' in text
    for name in (
        r"edge_energy_joules_total \d",
        r'edge_model_energy_joules_total{model="null",version="1"} \d',
        r'edge_model_joules_per_inference{model="null",version="1",idle="included"} \d',
        r'edge_model_cost_per_million{.*load="full",part="energy",currency="EUR"} \d',
        r'edge_cost_total{part="device",currency="EUR"} \d',
    ):
        assert re.search(f"^{name}", text, re.MULTILINE), name


def test_machine_without_a_sensor_says_so(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "machine/sys").mkdir(parents=True)
    live = serve()
    wait_until(lambda: live.get("/v2/cost").json.get("metered_s"))
    told = live.get("/v2/cost").json
    assert told["energy_source"] == "none"
    assert "no sensor here tells the power" in told["energy_why"]
    assert "energy_joules" not in told
    samples = [line for line in live.get("/metrics").body.decode().split("\n") if line[:1] != "#"]
    assert not [line for line in samples if "joules" in line]


def test_server_that_reads_no_sensors_says_why_it_tells_no_costs(serve: Any) -> None:
    told = serve(POWER_POLICY="off", POWER_ROOT="/").get("/v2/cost").json
    assert told["models"] == []
    assert '[power] policy is "off"' in told["energy_why"]
