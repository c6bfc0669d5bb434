from __future__ import annotations

from edge.host import Limits, Strain
from edge.sensors import Clock, Reading, Throttle
from edge.server import metrics
from edge.server.http.message import Traffic
from edge.server.power_metrics import power_families


def rendered(strain: Strain | None) -> set[str]:
    text = metrics.render([], Traffic({}, 0), tuple(power_families(strain)))
    return {line for line in text.splitlines() if not line.startswith("#")}


def test_what_is_held_back_and_why_is_told() -> None:
    reading = Reading(
        temperature_celsius={"tj-thermal": 97.5},
        passive_celsius={"tj-thermal": 99.0},
        power_watts={"VDD_IN": 14.25},
        total_watts=14.25,
        clocks={"cpu0": Clock(1_000_000_000, None, 1_510_400_000)},
        throttles=(Throttle("over-current", "average over-current, 3 times"),),
    )
    lines = rendered(Strain("rate", "thermal", "hot", 5, Limits(1, 12.5), (), reading))
    assert lines >= {
        "edge_power_level 2",
        "edge_power_limit_concurrency 1",
        "edge_power_limit_batches_per_second 12.5",
        'edge_power_cause_info{cause="thermal",device_throttle="over-current"} 1',
        'edge_power_watts{rail="VDD_IN"} 14.25',
        "edge_power_total_watts 14.25",
        'edge_temperature_celsius{sensor="tj-thermal"} 97.5',
        'edge_temperature_passive_celsius{sensor="tj-thermal"} 99.0',
        'edge_clock_hertz{clock="cpu0",value="now"} 1000000000',
        'edge_clock_hertz{clock="cpu0",value="maximum"} 1510400000',
    }
    assert not any('value="limit"' in line for line in lines)


def test_nothing_is_told_where_nobody_looks() -> None:
    assert not any("power" in line for line in rendered(None))
