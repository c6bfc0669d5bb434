"""The policy, on a model of a device that warms as it works."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host.restraint import Limits, Load, Restraint
from edge.sensors import Reading, Throttle
from edge.settings import Power

IDLE_WATTS, BATCH_JOULES = 4.0, 0.1
AMBIENT_CELSIUS, CELSIUS_PER_WATT = 30.0, 3.0
CORES, BATCHES_PER_CORE_S = 4, 50.0


class Device:
    """Two heat capacities, chip and sink; work is as much as is wanted and let run.

    At full speed it draws 24 W, which would bring it to 102 °C.
    """

    def __init__(self, *, trip_celsius: float = math.inf, step_celsius: float = 0.1) -> None:
        self.wanted = CORES
        self.ambient = AMBIENT_CELSIUS
        self.sink = self.chip = AMBIENT_CELSIUS + CELSIUS_PER_WATT * IDLE_WATTS
        self.watts = IDLE_WATTS
        self.is_throttled = False
        self._trip = trip_celsius
        self._step = step_celsius

    def run(self, seconds: float, limits: Limits) -> Load:
        """Let that time pass; a second of it at most."""
        cores = min(self.wanted, limits.concurrency or CORES)
        speed = BATCHES_PER_CORE_S * (0.6 if self.is_throttled else 1.0)
        rate = min(cores * speed, limits.batches_per_s or math.inf)
        self.watts = IDLE_WATTS + BATCH_JOULES * rate
        for _ in range(20):
            step = seconds / 20
            flow = (self.chip - self.sink) / (CELSIUS_PER_WATT * 0.2)
            self.chip += step * (self.watts - flow) / 4.0  # J/K: answers within seconds
            loss = (self.sink - self.ambient) / (CELSIUS_PER_WATT * 0.8)
            self.sink += step * (flow - loss) / 40.0  # and this within minutes
        # As a kernel does: begins over the trip point, ends some degrees below it.
        if self.chip > self._trip:
            self.is_throttled = True
        elif self.chip < self._trip - 5.0:
            self.is_throttled = False
        return Load(rate / speed, rate)

    def read(self) -> Reading:
        celsius = round(self.chip / self._step) * self._step
        hot = Throttle("thermal", "the kernel cools")
        return Reading(
            temperature_celsius={"cpu": celsius},
            total_watts=self.watts,
            throttles=(hot,) if self.is_throttled else (),
        )


class Course:
    """What happened, second by second."""

    def __init__(self, device: Device, **settings: Any) -> None:
        self.device = device
        self.restraint = Restraint(Power(**settings))
        self.now_s = 0.0
        self.limits: list[Limits] = []
        self.celsius: list[float] = []
        self.rates: list[float] = []
        self.watts: list[float] = []

    def run(self, seconds: float, interval_s: float = 1.0) -> Course:
        limits = self.restraint.limits
        for _ in range(round(seconds / interval_s)):
            load = self.device.run(interval_s, limits)
            self.now_s += interval_s
            limits = self.restraint.decide(self.now_s, self.device.read(), load)
            self.limits.append(limits)
            self.celsius.append(self.device.chip)
            self.rates.append(load.batches_per_s)
            self.watts.append(self.device.watts)
        return self


def test_nothing_is_limited_while_nothing_presses() -> None:
    course = Course(Device()).run(600)
    assert set(course.limits) == {Limits()}
    assert course.restraint.cause == "none"
    assert course.rates[-1] == CORES * BATCHES_PER_CORE_S


@pytest.mark.parametrize("max_celsius", [65.0, 80.0, 94.0])
@pytest.mark.parametrize("policy", ["throughput", "latency"])
@pytest.mark.parametrize("step_celsius", [0.1, 1.0])
@pytest.mark.parametrize("interval_s", [0.5, 1.0, 5.0])
def test_temperature_settles_below_its_limit_and_work_swings_little(
    max_celsius: float, policy: str, step_celsius: float, interval_s: float
) -> None:
    device = Device(step_celsius=step_celsius)
    course = Course(device, policy=policy, max_celsius=max_celsius).run(1800, interval_s)
    settled = len(course.rates) // 2
    celsius, rates = course.celsius[settled:], course.rates[settled:]
    assert max(celsius) <= max_celsius + 1.0
    assert min(celsius) >= max_celsius - 6.0  # and it is not held back more than need be
    assert max(rates) - min(rates) <= 0.2 * max(rates)
    assert course.restraint.cause == "thermal"
    assert "cpu is at" in course.restraint.why


def test_device_that_throttles_is_brought_out_of_it() -> None:
    course = Course(Device(trip_celsius=85.0)).run(1800)
    settled = course.limits[900:]
    assert {limits.level for limits in settled} == {"rate"}
    assert max(course.celsius[900:]) <= 86.0
    # Left alone it throttles for ever, between 80 and 85 °C; held back, it hardly ever does.
    alone = Course(Device(trip_celsius=85.0), policy="watch").run(1800)
    assert alone.device.is_throttled or max(alone.celsius[900:]) >= 84.9
    assert set(alone.limits) == {Limits()}
    assert alone.restraint.cause == "thermal"


def test_one_that_throttled_once_is_let_go_when_it_is_cooler_than_it_was_then() -> None:
    restraint = Restraint(Power(policy="latency"))
    hot = Throttle("thermal", "the kernel cools")

    def look(seconds: range, celsius: float, *throttles: Throttle) -> Limits:
        for second in seconds:
            reading = Reading(temperature_celsius={"cpu": celsius}, throttles=throttles)
            limits = restraint.decide(float(second), reading, Load(1.0, 100.0))
        return limits

    look(range(10), 60.0)
    assert look(range(10, 20), 80.0, hot).batches_per_s < 100.0
    held = look(range(20, 100), 79.0)  # as warm as where it began
    assert held.batches_per_s < 100.0
    assert look(range(100, 200), 79.0) == held
    assert look(range(200, 400), 75.0) == Limits()


def test_warmth_that_throttles_nothing_for_long_is_no_reason_to_hold_back() -> None:
    restraint = Restraint(Power(policy="latency"))
    warm = Reading(temperature_celsius={"cpu": 60.0})
    other = Reading(temperature_celsius={"cpu": 60.0}, throttles=(Throttle("thermal", "skin"),))
    restraint.decide(0.0, warm, Load(1.0, 100.0))
    assert restraint.decide(1.0, other, Load(1.0, 100.0)).batches_per_s == 80.0
    for second in range(2, 500):
        assert restraint.decide(float(second), warm, Load(1.0, 80.0)).batches_per_s == 80.0
    for second in range(500, 900):
        limits = restraint.decide(float(second), warm, Load(1.0, 80.0))
    assert limits == Limits()


def test_budget_is_met() -> None:
    course = Course(Device(), budget_watts=15.0).run(600)
    settled = course.watts[120:]
    assert max(settled) <= 15.0 * 1.02
    assert min(settled) >= 15.0 * 0.85
    assert course.restraint.cause == "power"


def test_noise_on_the_rail_does_not_ratchet_the_rate_down() -> None:
    course = Course(Device(), budget_watts=15.0)
    read = course.device.read
    noise = [1.0, 0.93, 1.04, 0.98, 1.07, 0.96, 1.02]

    def noisy() -> Reading:
        watts = course.device.watts * noise[len(course.limits) % len(noise)]
        return Reading(temperature_celsius=read().temperature_celsius, total_watts=watts)

    course.device.read = noisy  # type: ignore[method-assign]
    course.run(900)
    settled = course.watts[300:]
    assert 15.0 * 0.75 <= sum(settled) / len(settled) <= 15.0


def test_concurrency_goes_first_and_comes_back_last() -> None:
    course = Course(Device(), max_celsius=50.0).run(1200)
    levels = [limits.level for limits in course.limits]
    assert levels.index("concurrency") < levels.index("rate")
    assert [limits.concurrency for limits in course.limits if limits.level == "rate"][-1] == 1
    assert course.limits[-1].batches_per_s < BATCHES_PER_CORE_S
    course.device.ambient = -40.0
    begin = len(course.limits)
    course.run(1200)
    after = course.limits[begin:]
    assert after[-1].level == "free"
    # Paced all the way, so that each one more at once is no leap.
    assert [n for n, _ in itertools.groupby(one.concurrency for one in after)] == [1, 2, 3, 4, 0]
    assert [level for level, _ in itertools.groupby(one.level for one in after)] == ["rate", "free"]
    assert course.restraint.cause == "none"
    assert course.rates[-1] == CORES * BATCHES_PER_CORE_S


def test_latency_leaves_concurrency_alone() -> None:
    course = Course(Device(), max_celsius=80.0, policy="latency").run(600)
    assert {limits.concurrency for limits in course.limits} == {0}
    assert course.limits[-1].level == "rate"


def test_rate_never_falls_below_its_least() -> None:
    course = Course(Device(), max_celsius=20.0, min_batches_per_s=3.0).run(900)
    assert min(limits.batches_per_s or math.inf for limits in course.limits) == 3.0
    assert course.rates[-1] == 3.0


def test_device_that_is_hot_without_work_of_ours_is_not_paced() -> None:
    device = Device()
    device.wanted, device.ambient = 0, 100.0
    course = Course(device, max_celsius=80.0).run(120)
    assert not course.limits[-1].batches_per_s
    assert course.restraint.cause == "thermal"


def test_limit_is_cut_from_what_ran_and_not_from_what_nobody_used() -> None:
    restraint = Restraint(Power(policy="latency", budget_watts=10.0))
    over = Reading(total_watts=20.0)
    restraint.decide(0.0, over, Load(0.0, 0.0))
    assert restraint.decide(1.0, over, Load(2.0, 40.0)).batches_per_s == 40.0 * 0.5


@pytest.mark.parametrize("cause", ["power", "over-current"])
def test_what_is_no_heat_is_acted_on_at_once_and_until_it_ends(cause: Any) -> None:
    restraint = Restraint(Power())
    bad = Reading(throttles=(Throttle(cause, "low"),))
    restraint.decide(0.0, Reading(), Load(0.0, 0.0))
    assert restraint.decide(1.0, bad, Load(2.0, 50.0)) == Limits(1)
    for second in range(2, 30):
        limits = restraint.decide(second, bad, Load(1.0, 40.0))
    assert limits.batches_per_s < 25.0
    assert (restraint.cause, restraint.why) == (cause, "low")


def test_clock_that_fell_for_no_known_cause_limits_nothing() -> None:
    restraint = Restraint(Power())
    for second in range(30):
        reading = Reading(throttles=(Throttle("unknown", "cpu0 may run 800 of 1500 MHz"),))
        assert restraint.decide(second, reading, Load(4.0, 100.0)) == Limits()


def test_sensor_that_goes_away_keeps_the_limits_of_the_others() -> None:
    course = Course(Device(), max_celsius=80.0).run(600)
    assert course.limits[-1].level == "rate"
    limits = course.restraint.decide(course.now_s + 1, Reading(), Load(1.0, 100.0))
    assert limits.level == "rate"


looks = st.lists(
    st.tuples(
        st.floats(0.0, 100.0),
        st.none() | st.floats(-50.0, 150.0),
        st.none() | st.floats(0.0, 1000.0),
        st.sampled_from(["none", "unknown", "power", "thermal", "over-current"]),
        st.floats(0.0, 64.0),
        st.floats(0.0, 1e5),
    ),
    max_size=60,
)


@given(looks, st.sampled_from(["throughput", "latency", "watch"]))
def test_whatever_sensors_say_limits_are_some_and_go_when_all_is_well(
    seen: list[tuple[Any, ...]], policy: Any
) -> None:
    power = Power(policy=policy, budget_watts=20.0, max_celsius=80.0, min_batches_per_s=2.0)
    restraint, now_s = Restraint(power), 0.0
    for wait_s, celsius, watts, cause, concurrency, rate in seen:
        now_s += wait_s
        reading = Reading(
            temperature_celsius={} if celsius is None else {"cpu": celsius},
            total_watts=watts,
            throttles=() if cause == "none" else (Throttle(cause, "so"),),
        )
        limits = restraint.decide(now_s, reading, Load(concurrency, rate))
        assert limits.batches_per_s == 0.0 or limits.batches_per_s >= 2.0
        assert 0 <= limits.concurrency <= 64
        assert policy == "throughput" or limits.concurrency == 0
        assert policy != "watch" or limits == Limits()
    cool = Reading(temperature_celsius={"cpu": -60.0}, total_watts=0.0)
    for _ in range(5000):
        now_s += 1.0
        limits = restraint.decide(now_s, cool, Load(0.0, 0.0))
        if restraint.cause == "none":
            break
    assert limits == Limits()
    assert (restraint.cause, restraint.why) == ("none", "")
