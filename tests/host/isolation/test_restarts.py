from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.host.isolation.limits import Limits, limits_of
from edge.host.isolation.restarts import Restarts
from edge.settings import ModelSettings

LIMITS = Limits(delay_s=0.1, longest_delay_s=30, healthy_s=60, deaths=5, window_s=60)


def test_each_delay_is_twice_the_one_before_up_to_the_longest() -> None:
    restarts = Restarts(LIMITS)
    delays = [restarts.after_death(100.0 * number, 40) for number in range(12)]
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-3:] == [30, 30, 30]


def test_a_worker_that_lived_long_enough_starts_again_at_once() -> None:
    restarts = Restarts(LIMITS)
    for number in range(5):
        restarts.after_death(100.0 * number, 40)
    assert restarts.after_death(1000, 60) == 0.1


def test_too_many_deaths_within_the_window_are_enough() -> None:
    restarts = Restarts(LIMITS)
    assert None not in [restarts.after_death(10.0 * number, 1) for number in range(4)]
    assert restarts.after_death(60, 1) is None


@given(st.lists(st.floats(0, 100), max_size=40))
def test_it_gives_up_exactly_when_there_were_enough_within_the_window(gaps: list[float]) -> None:
    restarts = Restarts(LIMITS)
    times = [sum(gaps[: number + 1]) for number in range(len(gaps))]
    for number, now_s in enumerate(times):
        delay_s = restarts.after_death(now_s, 1)
        recent = [then for then in times[: number + 1] if now_s - then <= LIMITS.window_s]
        assert (delay_s is None) == (len(recent) >= LIMITS.deaths)
        assert delay_s is None or 0.1 <= delay_s <= 30


def test_limits_follow_the_models_settings() -> None:
    settings = ModelSettings(isolation="process", timeout_s=2, instances=64)
    limits = limits_of(settings, has_to_build=False)
    assert (limits.timeout_s, limits.lanes) == (2, 64)
    assert limits.first_timeout_s == limits.start_timeout_s > 0
    assert limits_of(settings, has_to_build=True).first_timeout_s == 0
