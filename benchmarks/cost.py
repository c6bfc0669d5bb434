"""What metering costs per reading, and how far off power is that is summed up reading by reading.

    python benchmarks/cost.py

Leaves `results/cost.json` and `cost.md`.

CPU time of one look at all models, as a share of a core at one look a second. Error of an hour's
energy of loads that are switched on for two fifths of a period, from 5 W to 15 W, if they are read
once a second sharp, and at the pace of the governor: the worst of 20 that begin at another time,
and what the meter says of its own standard error. A counter has none.
"""

from __future__ import annotations

import json
import math
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from edge.host import Snapshot, Statistics
from edge.host.metering import CostMeter
from edge.host.metering.energy import EnergyMeter
from edge.host.status import ModelStatus
from edge.sensors import Reading, device_sensors
from edge.settings import Cost

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
MODELS = (1, 10, 100)
LOOKS = 500
PERIODS_S = (0.13, 0.7, 1.0, 2.0, 3.3, 9.1, 60.0)
HOUR_S = 3600
BEGINS = 20
LOW_WATTS, HIGH_WATTS, ON = 5.0, 15.0, 0.4
PRICES = Cost("EUR", 0.32, 499.0, 5.0)


def main() -> None:
    result = {
        "machine": _machine(),
        "python": platform.python_version(),
        "look_us": {count: _look_us(count) for count in MODELS},
        "sensors_us": _sensors_us(),
        "errors_percent": {period_s: _errors_percent(period_s) for period_s in PERIODS_S},
    }
    table = "\n".join(_lines(result)) + "\n"
    print(table)
    (RESULTS / "cost.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / "cost.md").write_text(table)


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield "# What metering costs, and how far off it is\n"
    yield f"On {result['machine']}; Python {result['python']}."
    yield "Made by `python benchmarks/cost.py`; the figures are in `cost.json`.\n"
    yield f"CPU time of one look at models that all ran since the last one, median of {LOOKS}."
    yield f"The sensors (a recorded Orin Nano's: {result['sensors_us']:.0f} µs) are read anyway.\n"
    yield "| models | a look | of a core at one a second |"
    yield "|---:|---:|---:|"
    for count, micros in result["look_us"].items():
        yield f"| {count} | {micros:.0f} µs | {micros / 1e4:.4f} % |"
    yield f"\nError of an hour's energy, summed up from power, of a load of {HIGH_WATTS:g} W for"
    yield f"{ON:.0%} of a period and {LOW_WATTS:g} W else: the worst of {BEGINS} that begin at"
    yield "another time, read once a second sharp, and at the governor's pace, which is out of"
    yield "step; and what the meter says of its own standard error. A counter has no such error.\n"
    yield "| period | once a second sharp | at the governor's pace | standard error told |"
    yield "|---:|---:|---:|---:|"
    for period_s, (sharp, paced, told) in result["errors_percent"].items():
        yield f"| {period_s:g} s | {sharp:.1f} % | {paced:.1f} % | {told:.1f} % |"


def _look_us(count: int) -> float:
    """Median CPU time of a look at models that all ran since the last one."""
    meter = CostMeter(PRICES, 1.0)
    counters = [Statistics() for _ in range(count)]
    spent = []
    for look in range(LOOKS):
        for counter in counters:
            counter.success(1_000_000)
            counter.batch(4, 2_000_000)
        statuses = [
            ModelStatus(f"m{number}", "1", "ready", statistics=_snapshot(counter))
            for number, counter in enumerate(counters)
        ]
        reading = Reading(total_watts=8.0 + look % 3, total_rail="VDD_IN")
        begin = time.thread_time_ns()
        meter.look(float(look), reading, statuses)
        spent.append((time.thread_time_ns() - begin) / 1e3)
    return round(statistics.median(spent), 1)


def _snapshot(counter: Statistics) -> Snapshot:
    return msgspec.structs.replace(counter.snapshot(), is_running=False)


def _sensors_us() -> float:
    sensors = device_sensors(ROOT / "tests/fakes/jetson-orin-nano")
    sensors.read(0.0)
    spent = []
    for look in range(1, 200):
        begin = time.thread_time_ns()
        sensors.read(look / 100)
        spent.append((time.thread_time_ns() - begin) / 1e3)
    return round(statistics.median(spent), 1)


def _errors_percent(period_s: float) -> tuple[float, float, float]:
    """Worst in step, worst at the governor's pace, and the mean of what is told of the latter."""
    draw = random.Random(7)
    begins = [draw.uniform(0.0, period_s) for _ in range(BEGINS)]
    sharp = [_error(period_s, begin_s, lambda: 1.0)[0] for begin_s in begins]
    paced = [_error(period_s, begin_s, lambda: draw.uniform(0.5, 1.5)) for begin_s in begins]
    told = statistics.mean(error for _, error in paced)
    return round(max(sharp), 3), round(max(error for error, _ in paced), 3), round(told, 3)


def _error(period_s: float, begin_s: float, pace: Callable[[], float]) -> tuple[float, float]:
    """True error, and the one that the meter tells of itself, in percent."""
    meter = EnergyMeter(2.5)
    told = now_s = 0.0
    while now_s <= HOUR_S:
        is_on = (begin_s + now_s) % period_s < ON * period_s
        watts = HIGH_WATTS if is_on else LOW_WATTS
        told += meter.advance(now_s, Reading(total_watts=watts, total_rail="r")) or 0.0
        last_s, now_s = now_s, now_s + pace()
    true = LOW_WATTS * last_s + (HIGH_WATTS - LOW_WATTS) * _on_s(begin_s, last_s, period_s)
    return abs(told / true - 1) * 100, math.sqrt(meter.variance) / told * 100


def _on_s(begin_s: float, seconds: float, period_s: float) -> float:
    """How long the load is on within a time that starts ``begin_s`` into a period."""

    def until(end_s: float) -> float:
        periods, rest = divmod(end_s, period_s)
        return periods * ON * period_s + min(rest, ON * period_s)

    return until(begin_s + seconds) - until(begin_s)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
