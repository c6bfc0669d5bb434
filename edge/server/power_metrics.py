"""Heat, power, and what is held back for them, in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.host import LEVELS
from edge.server.metrics import family, known

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge.host import Strain
    from edge.sensors import Reading


def power_families(strain: Strain | None) -> Iterator[Iterator[str]]:
    """Nothing where nobody looks after it."""
    if strain is None:
        return
    yield family(
        "edge_power_level",
        "gauge",
        "What is limited: 0 nothing, 1 how many batches run at once, 2 how many start per second.",
        [("", {}, LEVELS.index(strain.level))],
    )
    yield family(
        "edge_power_limit_concurrency",
        "gauge",
        "Batches that may run at once over all models; 0 for any number.",
        [("", {}, strain.limits.concurrency)],
    )
    yield family(
        "edge_power_limit_batches_per_second",
        "gauge",
        "Batches that may start per second over all models; 0 for any number.",
        [("", {}, strain.limits.batches_per_s)],
    )
    yield family(
        "edge_power_cause_info",
        "gauge",
        "Why that is limited, and what the device itself throttles for.",
        [("", {"cause": strain.cause, "device_throttle": strain.reading.throttle.cause}, 1)],
    )
    yield from _reading_families(strain.reading)


def _reading_families(reading: Reading) -> Iterator[Iterator[str]]:
    yield family(
        "edge_power_watts",
        "gauge",
        "Power by rail; rails may be parts of others.",
        [("", {"rail": rail}, watts) for rail, watts in reading.power_watts.items()],
    )
    yield family(
        "edge_power_total_watts",
        "gauge",
        "Power of what is measured as a whole.",
        known(reading.total_watts),
    )
    yield family(
        "edge_temperature_celsius",
        "gauge",
        "Temperatures.",
        [("", {"sensor": name}, value) for name, value in reading.temperature_celsius.items()],
    )
    yield family(
        "edge_temperature_passive_celsius",
        "gauge",
        "Where the kernel begins to slow down, by its lowest passive trip point.",
        [("", {"sensor": name}, value) for name, value in reading.passive_celsius.items()],
    )
    yield family(
        "edge_clock_hertz",
        "gauge",
        "Clocks: now, as high as they may go now, and as high as they could.",
        [
            ("", {"clock": name, "value": field}, hertz)
            for name, clock in reading.clocks.items()
            for field in ("now", "limit", "maximum")
            if (hertz := getattr(clock, f"{field}_hz")) is not None
        ],
    )
