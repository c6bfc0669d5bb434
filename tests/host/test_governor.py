"""The governor over a real runtime, on sensor files that the test writes."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import LONG_S, wait_until

import edge
from edge.core.errors import SettingsError, UnavailableError
from edge.host import restraint
from edge.host.fairness import FairShare, Turns
from edge.host.governor import Governor
from edge.host.status import ModelStatus
from edge.sensors import Reading
from edge.settings import ModelSettings, Power
from runtimes.null import NullSession

MakeBundle = Callable[..., Path]

ONES = np.ones((1, 3), np.float32)
HASTE = 50.0


class Board:
    """A device with a temperature, something that cools by slowing down, and a rail."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("thermal/thermal_zone0/type", "cpu-thermal")
        self.write("thermal/cooling_device0/type", "cpufreq-cpu0")
        self.write("hwmon/hwmon0/name", "ina3221")
        self.write("hwmon/hwmon0/in1_label", "VDD_IN")
        self.write("hwmon/hwmon0/in1_input", "5000")
        self.celsius(45.0)
        self.throttle(0)
        self.watts(8.0)

    def write(self, path: str, text: str) -> None:
        file = self.root / "sys/class" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def celsius(self, value: float) -> None:
        self.write("thermal/thermal_zone0/temp", f"{value * 1000:.0f}")

    def throttle(self, state: int) -> None:
        self.write("thermal/cooling_device0/cur_state", str(state))

    def watts(self, value: float) -> None:
        self.write("hwmon/hwmon0/curr1_input", f"{value * 200:.0f}")


class Engine:
    """What the null engine does: a batch takes a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lock = threading.Lock()
        self.running = self.most = 0
        self.starts: list[float] = []
        run = NullSession._run

        def slow(session: NullSession, feeds: Any) -> Any:
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
                self.starts.append(time.monotonic())
            time.sleep(0.004)
            with self.lock:
                self.running -= 1
            return run(session, feeds)

        monkeypatch.setattr(NullSession, "_run", slow)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "board")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(monkeypatch)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps and pauses of a device that warms and cools that much faster."""
    for name in ("_STEP_PER_S", "_STEP_NEAR_PER_S", "_STEP_OF_FREE_PER_S"):
        monkeypatch.setattr(restraint, name, HASTE * getattr(restraint, name))
    monkeypatch.setattr(restraint, "_SETTLE_S", restraint._SETTLE_S / HASTE)


class Clients:
    """Threads that always want the next answer: of ``a`` by submitting, of ``b`` by calling."""

    def __init__(self, runtime: edge.Runtime, each: int = 4) -> None:
        self.answered: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self._is_over = False
        self._ask = {
            "a": lambda: runtime.model("a").submit({"x": ONES}).result(LONG_S),
            "b": lambda: runtime.infer("b", {"x": ONES}),
        }
        self._threads = [
            threading.Thread(target=self._run, args=(name,)) for name in "ab" for _ in range(each)
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join(LONG_S)
        assert not any(thread.is_alive() for thread in self._threads)

    def _run(self, name: str) -> None:
        while not self._is_over:
            try:
                assert self._ask[name]()["y"].shape == (1, 4)
                self.answered[name] += 1
            except BaseException as error:
                self.failures.append(error)
                return


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.name == "edge.host.governor"]


def models(make_bundle: MakeBundle) -> Path:
    make_bundle(name="a")
    return make_bundle(name="b").parent


@pytest.mark.usefixtures("hasty")
def test_throttling_lowers_concurrency_then_the_rate_and_its_end_gives_both_back(
    make_bundle: MakeBundle,
    board: Board,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # However long a batch takes on this machine, all cost the same.
    monkeypatch.setattr(Turns, "__exit__", lambda self, *_: self.fair.release(self, 4_000_000))
    caplog.set_level(logging.INFO, "edge.host.governor")
    power = Power(interval_s=0.05, min_batches_per_s=50.0, root=str(board.root))
    settings = {"a": ModelSettings(share=3, instances=4), "b": ModelSettings(share=1)}
    with (
        edge.Runtime(models(make_bundle), models=settings, power=power) as runtime,
        Clients(runtime) as clients,
    ):

        def level() -> str:
            assert runtime.strain is not None
            return runtime.strain.level

        def least() -> float:
            assert runtime.strain is not None
            return runtime.strain.limits.batches_per_s

        wait_until(lambda: clients.answered.total() > 300, "work without a limit")
        assert level() == "free"
        wait_until(lambda: engine.most > 4, "many at once")
        board.throttle(2)
        wait_until(lambda: level() == "rate", "fewer per second")
        wait_until(lambda: least() == 50.0, "the least rate")
        strain = runtime.strain
        assert strain is not None
        assert (strain.cause, strain.limits.concurrency) == ("thermal", 1)
        assert "cpufreq-cpu0 at 2" in strain.why
        wait_until(lambda: engine.running <= 1, "those that were at work to end")
        engine.most, before = 0, clients.answered.copy()
        engine.starts.clear()
        wait_until(lambda: len(engine.starts) > 60, "paced work")
        assert engine.most == 1
        done = clients.answered - before
        assert done["a"] > 1.5 * done["b"]  # shares of 3 and 1
        # The first may have begun late: without a pace, they would take a fifth of that.
        assert engine.starts[60] - engine.starts[0] > 0.5 * 60 / strain.limits.batches_per_s
        board.throttle(0)
        board.celsius(40.0)
        wait_until(lambda: level() == "free", "all limits to go")
        engine.most = 0
        wait_until(lambda: engine.most > 4, "as many at once as before")
        assert not clients.failures
    lines = [(record.levelname, record.message) for record in records(caplog)]
    assert lines[0][0] == "WARNING"
    assert "at once" in lines[0][1]
    assert "per second" not in lines[0][1]  # which comes after fewer at once
    assert "per second" in lines[1][1]
    assert lines[-1] == ("INFO", "the device is no longer held back")
    assert len(lines) < 30, lines  # two for each batch more at once, and not one for each look
    wait_until(lambda: not _own_threads(), "its threads to end")


@pytest.mark.usefixtures("hasty", "engine")
def test_requests_that_find_no_place_learn_why(make_bundle: MakeBundle, board: Board) -> None:
    power = Power(policy="latency", budget_watts=10.0, interval_s=0.05, root=str(board.root))
    settings = {"a": ModelSettings(queue=2)}
    with edge.Runtime(models(make_bundle), models=settings, power=power) as runtime:
        model = runtime.model("a")
        board.watts(19.0)
        with Clients(runtime, each=1):
            wait_until(lambda: model.is_held_back, "a limit")
        futures = [model.submit({"x": ONES}) for _ in range(2)]
        with pytest.raises(UnavailableError, match=r"wait for a already; .* W are drawn, more"):
            futures += [model.submit({"x": ONES}) for _ in range(18)]
        late = runtime.model("b").submit({"x": ONES}, timeout_us=1)
        with pytest.raises(UnavailableError, match=r"waited .* held back \(power: "):
            late.result(LONG_S)
        board.watts(3.0)
        for future in futures:
            future.result(LONG_S)


@pytest.mark.usefixtures("hasty", "engine")
def test_close_ends_what_waits_for_a_pace(make_bundle: MakeBundle, board: Board) -> None:
    """A hundred batches at one a second would take more than a minute."""
    board.celsius(99.0)
    power = Power(max_celsius=50.0, interval_s=0.05, root=str(board.root))
    runtime = edge.Runtime(models(make_bundle), power=power)
    with Clients(runtime, each=2):
        wait_until(lambda: runtime.strain.limits.batches_per_s == 1.0, "the least rate")  # type: ignore[union-attr]
        futures = [runtime.model("a").submit({"x": ONES}) for _ in range(100)]
        runtime.close()
    assert all(future.done() for future in futures)
    wait_until(lambda: not _own_threads(), "its threads to end")


@pytest.mark.usefixtures("engine")
def test_a_call_that_must_not_wait_does_not(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fair = FairShare()
    monkeypatch.setattr("edge.host.oversight.FairShare", lambda concurrency: fair)
    with edge.Runtime(models(make_bundle), concurrency=1) as runtime:
        model = runtime.model("a")
        fair.limit(batches_per_s=0.001)
        with fair.turns(1):  # the only one in a quarter of an hour
            assert model.is_held_back
            assert model.infer({"x": ONES}, at_once=True)["y"].shape == (1, 4)
        fair.limit()


def test_no_power_settings_mean_no_thread_and_no_turns(make_bundle: MakeBundle) -> None:
    for power in (None, Power(policy="off")):
        with edge.Runtime(models(make_bundle), power=power) as runtime:
            assert runtime.strain is None
            assert not runtime.model("a").is_held_back
            assert not _own_threads()


def test_root_without_sensors_is_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\[power\] root: there is no folder .*nowhere/sys"):
        edge.Runtime(models(make_bundle), power=Power(root=str(tmp_path / "nowhere")))
    assert not _own_threads()


def test_limits_that_no_sensor_can_keep_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Blind:
        def read(self, now_s: float) -> Reading:
            return Reading()

    power = Power(budget_watts=10.0, max_celsius=80.0)
    governor = Governor(power, FairShare(), list, Blind())  # type: ignore[arg-type]
    for second in range(4):
        governor.look(float(second))
    assert set(governor.strain.missing) == {"power", "temperature"}
    assert sorted(record.message.split(":")[0] for record in caplog.records) == [
        "no sensor here tells the power",
        "no sensor here tells the temperature",
    ]


def test_watching_limits_nothing_and_says_what_presses(board: Board) -> None:
    fair = FairShare()
    governor = Governor(Power(policy="watch", max_celsius=40.0, root=str(board.root)), fair, list)
    for second in range(20):
        governor.look(float(second))
    assert (governor.strain.level, governor.strain.cause) == ("free", "thermal")
    assert not fair.is_limited


@pytest.mark.usefixtures("hasty")
def test_look_that_fails_is_logged_once_and_the_next_ones_work(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    failing = [True]
    looks = itertools.count()

    def status() -> list[ModelStatus]:
        next(looks)
        if failing[0]:
            raise RuntimeError("no statistics")
        return []

    governor = Governor(Power(interval_s=0.05, root=str(board.root)), FairShare(), status)
    governor.start()
    wait_until(lambda: next(looks) > 3, "some looks")
    failing[0] = False
    wait_until(lambda: bool(governor.strain.reading.temperature_celsius), "a reading")
    failing[0] = True
    wait_until(lambda: governor.strain.reading == Reading(), "it to be old")
    governor.close()
    assert [record.message for record in records(caplog)] == [
        "heat and power could not be looked after"
    ] * 2


def test_sensor_that_hangs_does_not_keep_the_runtime_from_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hanging:
        def __init__(self) -> None:
            self.begun, self.goes_on = threading.Event(), threading.Event()

        def read(self, now_s: float) -> Reading:
            self.begun.set()
            assert self.goes_on.wait(LONG_S)
            return Reading(total_watts=99.0)

    monkeypatch.setattr("edge.host.governor._CLOSE_S", 0.05)
    sensors, fair = Hanging(), FairShare()
    power = Power(budget_watts=10.0, interval_s=0.05)
    governor = Governor(power, fair, list, sensors)  # type: ignore[arg-type]
    fair.limit(1)
    governor.start()
    assert sensors.begun.wait(LONG_S)
    governor.close()
    assert not fair.is_limited
    sensors.goes_on.set()
    wait_until(lambda: not _own_threads(), "its thread to end")
    assert not fair.is_limited


_others: set[threading.Thread] = set()
"""What other tests left running."""


@pytest.fixture(autouse=True)
def _know_others() -> None:
    _others.clear()
    _others.update(threading.enumerate())


def _own_threads() -> list[str]:
    names = (thread.name for thread in threading.enumerate() if thread not in _others)
    return [name for name in names if name in ("edge-power", "edge-pace")]
