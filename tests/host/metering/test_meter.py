"""Energy and money of models, on a device whose true energy is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from edge.host.metering import CostReport, ModelCost
from edge.host.status import ModelStatus

MakeDevice = Callable[..., Any]
EUROS = {"currency": "EUR", "per_kwh": 0.36, "device_price": 315.576, "device_years": 10.0}
PER_JOULE = 1e-7
PER_DEVICE_S = 1e-6


def of(report: CostReport, name: str) -> ModelCost:
    return next(model for model in report.models if model.name == name)


def shared(report: CostReport) -> float:
    """What models used and what was nobody's, all together."""
    assert report.idle_joules is not None
    return report.idle_joules + sum(model.joules or 0.0 for model in report.models)


def test_what_is_drawn_above_idle_is_the_models_and_idle_power_for_the_time_they_ran(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    device.quiet(4.0)
    for _ in range(10):
        device.passes(0.9, 4.0)
        device.passes(0.1, 14.0)
        device.ran("a", 0.1, count=5)
        report = device.look()
    a = of(report, "a")
    assert report.basis.idle_watts == pytest.approx(4.0)
    assert report.basis.idle_source == "measured"
    assert a.inferences == 50
    assert a.busy_s == pytest.approx(1.0)
    assert a.joules_each == pytest.approx(14.0 * 0.1 / 5)
    assert a.above_idle_each == pytest.approx(10.0 * 0.1 / 5)
    assert report.joules == pytest.approx(device.true_joules)
    assert shared(report) == pytest.approx(device.true_joules)
    assert report.busy == pytest.approx(1.0 / 20.0)


def test_models_that_run_in_the_same_interval_share_by_their_time(make_device: MakeDevice) -> None:
    device = make_device()
    device.quiet(2.0)
    device.ran("a", 0.6)
    device.ran("b", 0.2)
    report = device.look(1.0, 10.0)
    assert of(report, "a").joules == pytest.approx(8.0 * 0.75 + 2.0 * 0.6)
    assert of(report, "b").joules == pytest.approx(8.0 * 0.25 + 2.0 * 0.2)
    assert shared(report) == pytest.approx(device.true_joules)


def test_models_that_run_at_the_same_time_share_the_interval(make_device: MakeDevice) -> None:
    device = make_device()
    device.ran("a", 3.0, count=3)  # on several instances
    device.ran("b", 1.0)
    report = device.look(1.0, 8.0)
    assert (of(report, "a").busy_s, of(report, "b").busy_s) == (0.75, 0.25)
    assert (of(report, "a").joules, of(report, "b").joules) == (6.0, 2.0)
    assert report.busy == 1.0


def test_without_idle_power_each_has_all_power_for_its_time_and_nothing_is_said_of_idle(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    device.ran("a", 0.25)
    report = device.look(1.0, 8.0)
    assert of(report, "a").joules == pytest.approx(2.0)
    assert of(report, "a").above_idle_each is None
    assert report.basis.idle_source == "unknown"


def test_idle_power_that_the_settings_say_counts_from_the_start(make_device: MakeDevice) -> None:
    device = make_device(idle_watts=3.0)
    device.ran("a", 0.25)
    report = device.look(1.0, 8.0)
    assert of(report, "a").above_idle_each == pytest.approx(5.0)
    assert report.basis.idle_source == "settings"


def test_inference_of_many_intervals_is_counted_in_all_of_them(make_device: MakeDevice) -> None:
    device = make_device()
    device.quiet(4.0)
    before = device.true_joules
    device.in_flight("slow", is_running=True)
    for _ in range(4):
        report = device.look(1.0, 20.0)
    device.ran("slow", 5.0)
    report = device.look(1.0, 20.0)
    assert of(report, "slow").joules == pytest.approx(device.true_joules - before)
    assert report.basis.idle_watts == pytest.approx(4.0)  # not taken for quiet
    assert shared(report) == pytest.approx(device.true_joules)


def test_inference_that_never_ends_keeps_no_one_from_being_accounted_for(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    for _ in range(65):
        device.in_flight("hung", is_running=True)
        device.ran("a", 0.5)
        report = device.look(1.0, 6.0)
    assert of(report, "a").inferences >= 60
    assert of(report, "a").joules == pytest.approx(60 * 3.0)


def test_loading_a_model_is_not_taken_for_quiet(make_device: MakeDevice) -> None:
    device = make_device()
    device.statuses[("a", "1")] = ModelStatus("a", "1", "loading")
    device.quiet(25.0, 20)
    assert device.meter.report.basis.idle_watts is None
    device.statuses[("a", "1")] = ModelStatus("a", "1", "ready")
    device.quiet(5.0, 20)
    assert device.meter.report.basis.idle_watts == pytest.approx(5.0)


def test_noise_of_a_sensor_is_not_blamed_on_a_model_that_does_little(
    make_device: MakeDevice,
) -> None:
    """Always the same mean: an interval that is below it counts against the next."""
    noise = random.Random(1)
    device = make_device(idle_watts=5.0)
    for _ in range(7200):
        device.passes(0.999, max(0.0, 5.0 + noise.gauss(0.0, 0.2)))
        device.passes(0.001, 15.0)
        device.ran("a", 0.001)
        report = device.look()
    # Clipped at 0 without a memory, it would be 0.08 joules more for each.
    assert of(report, "a").joules_each == pytest.approx(0.015, abs=0.005)
    assert shared(report) == pytest.approx(device.true_joules)


@pytest.mark.parametrize("period_s", [1.0, 3.3, 9.1, 60.0])
def test_power_that_is_read_about_once_a_second_integrates_to_the_error_that_is_told(
    make_device: MakeDevice, period_s: float
) -> None:
    """An hour of a load of two fifths; a counter knows the same to the joule."""
    pace = random.Random(2)
    by_power, by_counter = make_device("power"), make_device("counter")
    for device in (by_power, by_counter):
        look_at = 10
        for step in range(3600 * 10):
            is_busy = (step / 10) % period_s < 0.4 * period_s
            device.passes(0.1, 15.0 if is_busy else 5.0)
            if step >= look_at:
                look_at += pace.randint(5, 15)
                device.look()
        device.look()
    counted, summed = by_counter.meter.report, by_power.meter.report
    assert counted.joules == pytest.approx(by_counter.true_joules, rel=1e-9)
    assert (counted.basis.source, counted.basis.error_joules) == ("counter", None)
    error = summed.basis.error_joules
    assert summed.joules == pytest.approx(by_power.true_joules, abs=3 * error)
    assert error < 0.012 * by_power.true_joules
    assert summed.basis.source == "integrated"
    assert summed.basis.samples_per_s == pytest.approx(1.0, abs=0.05)


def test_times_at_which_the_sensor_was_gone_are_not_integrated_over(
    make_device: MakeDevice,
) -> None:
    device = make_device("power")
    device.quiet(5.0, 10)
    device.sensor = ""
    for _ in range(10):
        device.ran("a", 0.5)
        device.look(1.0, 50.0)
    device.sensor = "power"
    device.look(1.0, 5.0)
    device.ran("a", 0.5)
    report = device.look(1.0, 5.0)
    assert report.joules == pytest.approx(5.0 * 11)  # the reading after the gap has none before it
    assert (report.seconds, report.measured_s) == (22.0, 11.0)
    assert of(report, "a").inferences == 11
    assert report.metrics()["energy_covered_percent"] == 50.0


def test_sensor_that_goes_during_an_inference_leaves_what_it_told_before(
    make_device: MakeDevice,
) -> None:
    device = make_device("power")
    device.in_flight("slow", is_running=True)
    for _ in range(3):
        device.look(1.0, 5.0)
    device.sensor = ""
    device.look(1.0, 5.0)
    device.ran("slow", 4.0)
    report = device.look(1.0, 5.0)
    assert report.joules == pytest.approx(15.0)
    assert (report.seconds, report.measured_s) == (5.0, 3.0)


def test_readings_that_lie_far_apart_are_not_connected(make_device: MakeDevice) -> None:
    """As when the process, or the whole device, was stopped for a while."""
    device = make_device("power")
    device.look(1.0, 5.0)
    assert device.look(300.0, 5.0).joules == pytest.approx(5.0)
    assert device.look(1.0, 5.0).joules == pytest.approx(10.0)


def test_counter_tells_also_of_the_time_in_which_nobody_looked(make_device: MakeDevice) -> None:
    device = make_device("counter")
    device.look(1.0, 5.0)
    assert device.look(300.0, 5.0).joules == pytest.approx(5.0 * 301)


def test_counter_that_falls_tells_nothing_of_that_time(make_device: MakeDevice) -> None:
    device = make_device("counter")
    device.look(1.0, 5.0)
    device.true_joules = 1.0
    assert device.look(1.0, 0.0).joules == pytest.approx(5.0)
    assert device.look(1.0, 7.0).joules == pytest.approx(12.0)


def test_energy_of_one_rail_is_not_added_to_that_of_another(make_device: MakeDevice) -> None:
    device = make_device("counter")
    device.quiet(5.0, 20)
    device.rail = "psys"
    assert device.look(1.0, 90.0).joules == pytest.approx(5.0 * 20)
    report = device.look(1.0, 9.0)
    assert (report.joules, report.seconds) == (pytest.approx(9.0), 1.0)
    assert report.basis.idle_watts is None  # that was of the other, too


def test_error_of_one_rail_is_not_told_of_another(make_device: MakeDevice) -> None:
    device = make_device("power")
    for watts in (5.0, 90.0) * 10:
        device.look(1.0, watts)
    device.rail = "psys"
    device.look(1.0, 5.0)
    device.look(1.0, 5.0)
    assert device.look(1.0, 5.0).basis.error_joules == 0.0


def test_clock_that_stands_still_or_goes_back_breaks_nothing(make_device: MakeDevice) -> None:
    device = make_device("power", idle_watts=1.0)
    device.ran("a", 0.5)
    device.look(1.0, 5.0)
    device.ran("a", 0.5)
    device.look()
    device.ran("a", 0.5)
    device.now_s -= 10.0
    report = device.look()
    assert report.seconds == 1.0
    assert all(math.isfinite(figure) for figure in numbers(report.metrics()))


def test_counters_of_a_model_that_begin_anew_are_counted_from_there(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    device.ran("a", 0.5, count=5)
    device.look(1.0, 5.0)
    device.loads_anew("a")
    device.ran("a", 0.2, count=2)
    report = device.look(1.0, 5.0)
    assert of(report, "a").inferences == 7
    assert of(report, "a").busy_s == pytest.approx(0.7)


def test_figures_that_fall_for_a_moment_while_a_batch_is_counted_count_once(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    device.ran("a", 1.0, count=10)
    device.look(1.0, 5.0)
    device.ran("a", -0.3, count=0)
    device.look(1.0, 5.0)
    device.ran("a", 0.5, count=2)
    report = device.look(1.0, 5.0)
    assert of(report, "a").busy_s == pytest.approx(1.2)
    assert of(report, "a").inferences == 12


def test_what_models_did_before_the_first_look_is_not_metered(make_device: MakeDevice) -> None:
    from edge.settings import Cost

    device = type(make_device())(Cost(), "counter")
    device.ran("a", 100.0, count=1000)
    device.look()
    device.ran("a", 0.5)
    assert of(device.look(1.0, 5.0), "a").inferences == 1


def test_model_that_is_gone_keeps_its_part_of_the_whole(make_device: MakeDevice) -> None:
    device = make_device(**EUROS)
    device.ran("a", 0.5)
    device.ran("b", 0.5)
    device.look(1.0, 10.0)
    device.goes("a")
    report = device.look(1.0, 0.0)
    assert [model.name for model in report.models] == ["b"]
    assert of(report, "b").joules == pytest.approx(5.0)
    # The wait is shared with what is gone, too.
    assert of(report, "b").per_million.device == pytest.approx(1e6 * PER_DEVICE_S * 1.0)


def test_where_no_sensor_tells_nothing_is_made_up(make_device: MakeDevice) -> None:
    device = make_device("", **EUROS)
    device.ran("a", 0.5)
    report = device.look(1.0, 10.0)
    assert (report.basis.source, report.joules) == ("none", None)
    assert "no sensor here tells the power" in report.basis.why
    a = of(report, "a")
    assert (a.joules, a.joules_each, a.per_million.energy) == (None, None, None)
    assert a.per_million_full.device == pytest.approx(1e6 * PER_DEVICE_S * 0.5)
    assert a.per_million_full.total is None
    assert "energy_joules" not in report.metrics()


def test_energy_by_the_settings_is_told_as_an_estimate(make_device: MakeDevice) -> None:
    device = make_device("", idle_watts=4.0, busy_watts=12.0)
    device.ran("a", 0.25)
    report = device.look(1.0, 10.0)
    assert report.basis.source == "estimated"
    assert "no sensor" in report.basis.why
    assert report.joules == pytest.approx(4.0 + 8.0 * 0.25)
    assert of(report, "a").joules == pytest.approx(12.0 * 0.25)


def test_profile_says_what_the_settings_leave_open(make_device: MakeDevice) -> None:
    device = make_device("", idle_watts=5.0, profile="jetson-orin-nano-8gb")
    device.ran("a", 1.0)
    assert device.look(1.0, 0.0).joules == pytest.approx(15.0)


def test_estimates_are_dropped_when_a_sensor_comes(make_device: MakeDevice) -> None:
    device = make_device("", idle_watts=4.0, busy_watts=12.0)
    for _ in range(5):
        device.look(1.0, 1.0)
    device.sensor = "counter"
    device.look(1.0, 1.0)
    report = device.look(1.0, 1.0)
    assert (report.basis.source, report.joules, report.seconds) == ("counter", 1.0, 1.0)


def test_money_is_of_energy_and_of_the_device_apart_now_and_at_full_load(
    make_device: MakeDevice,
) -> None:
    device = make_device(idle_watts=4.0, **EUROS)
    for _ in range(10):
        device.passes(0.75, 4.0)
        device.passes(0.25, 12.0)
        device.ran("a", 0.25)
        report = device.look()
    a = of(report, "a")
    assert a.per_million_full.energy == pytest.approx(1e6 * PER_JOULE * 3.0)
    assert a.per_million_full.device == pytest.approx(1e6 * PER_DEVICE_S * 0.25)
    assert a.per_million.energy == pytest.approx(1e6 * PER_JOULE * 6.0)  # the wait included
    assert a.per_million.device == pytest.approx(1e6 * PER_DEVICE_S * 1.0)
    assert a.per_million.total == pytest.approx(0.6 + 1.0)
    assert report.spent.energy == pytest.approx(60 * PER_JOULE)
    assert report.spent.device == pytest.approx(10 * PER_DEVICE_S)
    assert report.metrics()["models"][0]["cost_per_million_eur"] == pytest.approx(1.6)


def test_without_prices_only_joules_are_told(make_device: MakeDevice) -> None:
    device = make_device()
    device.ran("a", 0.5)
    metrics = device.look(1.0, 10.0).metrics()
    assert not [name for name in (*metrics, *metrics["models"][0]) if "cost" in name]
    assert "currency" not in metrics


def test_answers_of_the_cache_save_what_an_inference_costs(make_device: MakeDevice) -> None:
    device = make_device()
    device.ran("a", 0.5, count=5)
    device.recalled("a", 40)
    a = of(device.look(1.0, 10.0), "a")
    assert (a.inferences, a.recalled) == (5, 40)
    assert a.recalled_joules == pytest.approx(40 * 1.0)


def test_preparing_inputs_and_reading_outputs_is_the_models_work(make_device: MakeDevice) -> None:
    device = make_device(**EUROS)
    device.ran("a", 0.1)
    device.transferred("a", 0.3)
    device.ran("b", 0.4)
    report = device.look(1.0, 10.0)
    assert of(report, "a").joules == pytest.approx(of(report, "b").joules)
    assert of(report, "a").busy_s == pytest.approx(0.4)
    assert of(report, "a").joules_each == pytest.approx(4.0)


def test_answers_of_the_cache_have_their_part_of_what_handling_them_takes(
    make_device: MakeDevice,
) -> None:
    """Or a cache that answers nearly all would make the few inferences that remain look dear."""
    device = make_device(**EUROS)
    device.ran("a", 0.01)
    device.recalled("a", 999)
    device.transferred("a", 0.2)
    report = device.look(1.0, 10.0)
    a = of(report, "a")
    assert a.joules == pytest.approx(2.1)
    assert a.joules_each == pytest.approx(0.1 + 0.002)
    assert a.recalled_joules == pytest.approx(999 * 0.1)
    assert a.per_million_full.device == pytest.approx(1e6 * PER_DEVICE_S * 0.0102)


def test_batches_save_what_their_requests_take_less_than_alone(make_device: MakeDevice) -> None:
    device = make_device()
    device.ran("a", 0.3, count=30)  # 10 ms each
    device.ran("a", 0.2, count=10, size=4)  # 5 ms each
    a = of(device.look(1.0, 10.0), "a")
    assert a.batching is not None
    assert a.batching.seconds == pytest.approx(40 * 0.005)
    assert a.batching.joules == pytest.approx(40 * 0.005 * 10.0)


@pytest.mark.parametrize(("alone", "together"), [(29, 10), (30, 7), (30, 0), (0, 10)])
def test_nothing_is_said_of_batches_before_enough_ran_alone_and_together(
    make_device: MakeDevice, alone: int, together: int
) -> None:
    device = make_device()
    device.ran("a", 0.3, count=alone)
    device.ran("a", 0.2, count=together, size=4)
    assert of(device.look(1.0, 10.0), "a").batching is None


def numbers(told: Any) -> list[float]:
    if isinstance(told, dict):
        return [number for value in told.values() for number in numbers(value)]
    if isinstance(told, list):
        return [number for value in told for number in numbers(value)]
    return [told] if isinstance(told, int | float) else []
