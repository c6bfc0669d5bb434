"""Many models in a bounded memory."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from patience import LONG_S, wait_until

import edge
from edge.core import plugins
from edge.core.contracts import Session
from edge.core.errors import InputError, UnavailableError
from edge.core.manifest import Variant
from edge.core.process import resident_bytes
from edge.core.sizes import parse_bytes
from edge.host import costs
from edge.host import residency as residency_module
from edge.host.costs import Cost, Gauge
from edge.host.residency import WAIT_S, NoRoomError, Residency, Room, budget_bytes
from edge.settings import ModelSettings

MakeBundle = Callable[..., Path]
ONES = np.ones((2, 3), np.float32)
MIB = 1024 * 1024
SIZE = 100 * MIB


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> Cost:
    """What every model is known to take."""
    known = Cost(SIZE, SIZE, is_measured=True)
    monkeypatch.setattr(costs, "recall", lambda key: known)
    return known


class Watched:
    """Sessions of the null engine: how many are open, and whether one ran after it was closed."""

    def __init__(self) -> None:
        self.open = 0
        self.most_open = 0
        self.ran_closed = 0
        self.hold: threading.Event | None = None
        self.at_run: Callable[[Session], None] | None = None
        self.at_close: Callable[[Session], None] | None = None
        self._lock = threading.Lock()

    def watch(self, session: Session) -> Session:
        run, close = session._run, session.close
        is_open = True
        with self._lock:
            self.open += 1
            self.most_open = max(self.most_open, self.open)

        def watched_run(feeds: Any) -> Any:
            if self.hold is not None:
                assert self.hold.wait(LONG_S)
            self.ran_closed += not is_open
            if self.at_run is not None:
                self.at_run(session)
            return run(feeds)

        def watched_close() -> None:
            nonlocal is_open
            with self._lock:
                self.open -= is_open
                is_open = False
            if self.at_close is not None:
                self.at_close(session)
            close()

        session._run, session.close = watched_run, watched_close  # type: ignore[method-assign]
        return session


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched()
    backend = plugins.backend("null")
    real_open = backend.open
    monkeypatch.setattr(
        backend,
        "open",
        lambda *args: watched.watch(real_open(*args)),  # type: ignore[misc]
    )
    return watched


def folder_of(make_bundle: MakeBundle, count: int) -> Path:
    paths = [make_bundle(name=f"m{number:02}") for number in range(count)]
    return paths[0].parent


def states(runtime: edge.Runtime) -> list[str]:
    return [status.state for status in runtime.status()]


def test_twenty_models_share_room_for_five_and_no_request_fails(
    make_bundle: MakeBundle, cost: Cost, watched: Watched
) -> None:
    with edge.Runtime(folder_of(make_bundle, 20), memory=5 * SIZE) as runtime:
        names = runtime.names()

        def ask(seed: int) -> None:
            choose = random.Random(seed)
            for _ in range(100):
                model = runtime.model(choose.choice(names))
                feeds = {"x": ONES}
                answer = model.infer(feeds) if seed % 2 else model.submit(feeds).result(LONG_S)
                assert answer["y"].shape == (2, 4)
                assert runtime.memory.used_bytes <= 5 * SIZE

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(ask, seed) for seed in range(8)]:
                future.result(LONG_S)
        assert watched.ran_closed == 0
        assert watched.open <= 5
        statuses = runtime.status()
        assert sum(status.statistics.success_count for status in statuses if status.statistics)
        assert sum(status.evictions.get("room", 0) for status in statuses) >= 15
    assert watched.open == 0


def test_the_one_used_longest_ago_goes_first(make_bundle: MakeBundle, cost: Cost) -> None:
    with edge.Runtime(folder_of(make_bundle, 3), memory=2 * SIZE) as runtime:
        for name in ("m00", "m01", "m00", "m02"):
            runtime.infer(name, {"x": ONES})
        assert states(runtime) == ["ready", "idle", "ready"]
        runtime.infer("m01", {"x": ONES})
        assert states(runtime) == ["idle", "ready", "ready"]
        assert runtime.is_ready


def test_what_is_in_use_goes_after_its_last_run_where_nothing_else_can(
    make_bundle: MakeBundle, cost: Cost, watched: Watched
) -> None:
    watched.hold = threading.Event()
    with (
        edge.Runtime(folder_of(make_bundle, 2), memory=SIZE) as runtime,
        ThreadPoolExecutor(2) as pool,
    ):
        first = runtime.model("m00")
        running = pool.submit(first.infer, {"x": ONES})
        wait_until(lambda: first.seat.is_busy)
        waiting = pool.submit(runtime.infer, "m01", {"x": ONES})
        wait_until(lambda: not first.seat.is_taken)
        assert watched.open == 1
        watched.hold.set()
        assert running.result(LONG_S)
        assert waiting.result(LONG_S)
        assert watched.most_open == 1
        assert watched.ran_closed == 0


def test_a_model_that_can_not_fit_is_refused_with_the_arithmetic(
    make_bundle: MakeBundle, cost: Cost
) -> None:
    with edge.Runtime(make_bundle(), memory=50 * MIB) as runtime:
        with pytest.raises(UnavailableError) as refused:
            runtime.infer("product", {"x": ONES})
        assert str(refused.value) == (
            "product does not fit: it takes 100.0 MiB (measured here), "
            "and there are 50.0 MiB for models"
        )
        assert "--memory" in refused.value.hint
        assert states(runtime) == ["failed"]


def test_pinned_models_stay_and_count_in_what_others_can_have(
    make_bundle: MakeBundle, cost: Cost
) -> None:
    pinned = {name: ModelSettings(pinned=True) for name in ("m01", "m02")}
    folder = folder_of(make_bundle, 4)
    with edge.Runtime(folder, memory=3 * SIZE, models=pinned) as runtime:
        runtime.load_all()
        assert states(runtime) == ["ready", "ready", "ready", "idle"]
        runtime.infer("m03", {"x": ONES})
        assert states(runtime) == ["idle", "ready", "ready", "ready"]
    with edge.Runtime(folder, memory=2 * SIZE + MIB, models=pinned) as runtime:
        runtime.load_all()
        assert states(runtime) == ["failed", "ready", "ready", "failed"]
        assert "less 200.0 MiB of pinned models" in runtime.status()[0].reason


def test_what_is_idle_is_unloaded_and_what_is_pinned_is_not(make_bundle: MakeBundle) -> None:
    pinned = {"m01": ModelSettings(pinned=True)}
    with edge.Runtime(folder_of(make_bundle, 2), idle_s=0.02, models=pinned) as runtime:
        runtime.load_all()
        wait_until(lambda: states(runtime) == ["idle", "ready"])
        assert runtime.status()[0].evictions == {"idle": 1}
        assert runtime.infer("m00", {"x": ONES})


def test_loading_all_leaves_out_what_there_is_no_room_for(
    make_bundle: MakeBundle, cost: Cost, watched: Watched
) -> None:
    with edge.Runtime(folder_of(make_bundle, 4), memory=2 * SIZE) as runtime:
        runtime.load_all()
        assert states(runtime) == ["ready", "ready", "idle", "idle"]
        assert runtime.is_ready
        assert watched.most_open == 2
        assert runtime.infer("m03", {"x": ONES})


def test_what_waits_for_room_answers_though_its_file_is_damaged_meanwhile(
    make_bundle: MakeBundle, cost: Cost
) -> None:
    folder = folder_of(make_bundle, 2)
    with edge.Runtime(folder, memory=SIZE) as runtime:
        runtime.load_all()
        assert states(runtime) == ["ready", "idle"]
        path = Path(runtime.status_of("m01").path)
        path.unlink()
        path.write_text("no bundle")
        assert runtime.infer("m01", {"x": ONES})


def test_closing_does_not_wait_for_a_version_that_waits_for_room(
    make_bundle: MakeBundle, cost: Cost, watched: Watched
) -> None:
    watched.hold = threading.Event()
    folder = folder_of(make_bundle, 1)
    runtime = edge.Runtime(folder, memory=SIZE, watch_s=0.01)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(runtime.infer, "m00", {"x": ONES})
        wait_until(lambda: runtime.memory.used_bytes > 0)
        make_bundle(name="m01")
        wait_until(lambda: len(runtime._residency._line) == 1)
        try:
            pool.submit(runtime.close).result(LONG_S)
        finally:
            watched.hold.set()
        assert running.result(LONG_S)


def test_statistics_outlive_an_eviction(make_bundle: MakeBundle) -> None:
    with edge.Runtime(make_bundle()) as runtime:
        for _ in range(3):
            runtime.infer("product", {"x": ONES})
            runtime.model("product").seat.evict("request")
        (status,) = runtime.status()
        assert status.statistics is not None
        assert status.statistics.success_count == 3
        assert (status.state, status.loads, status.evictions) == ("idle", 3, {"request": 3})


def test_an_unloaded_model_answers_nothing_until_it_is_loaded(make_bundle: MakeBundle) -> None:
    with edge.Runtime(make_bundle()) as runtime:
        model = runtime.model("product")
        runtime.unload("product")
        with pytest.raises(UnavailableError, match="was unloaded"):
            runtime.infer("product", {"x": ONES})
        with pytest.raises(UnavailableError, match="was unloaded"):
            model.infer({"x": ONES})
        assert runtime.status()[0].is_withdrawn
        runtime.load("product")
        assert states(runtime) == ["ready"]
        assert model.infer({"x": ONES})


def test_a_model_that_failed_is_tried_again_by_a_load(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [Cost(SIZE, SIZE, is_measured=True)]
    monkeypatch.setattr(costs, "recall", lambda key: sizes[0])
    with edge.Runtime(make_bundle(), memory=50 * MIB) as runtime:
        runtime.load_all()
        assert states(runtime) == ["failed"]
        sizes[0] = Cost(MIB, MIB, is_measured=True)
        runtime.load("product")
        assert states(runtime) == ["ready"]


def test_closing_lets_nobody_wait_for_room() -> None:
    residency = Residency(SIZE)
    held = residency.admit("held", "k", SIZE - 2 * MIB, is_pinned=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(residency.admit, "late", "l", SIZE // 2, is_pinned=False)
        wait_until(lambda: len(residency._line) == 1)
        residency.close()
        with pytest.raises(UnavailableError, match="the runtime is closed"):
            waiting.result(LONG_S)
    held.leave()


def test_who_asked_first_is_admitted_first(cost: Cost) -> None:
    residency = Residency(SIZE)
    room = residency.admit("held", "k", 0, is_pinned=False)
    order: list[str] = []

    def ask(name: str) -> None:
        mine = residency.admit(name, "k", 0, is_pinned=False)
        order.append(name)
        mine.leave()

    with ThreadPoolExecutor(4) as pool:
        futures = []
        for name in "abcd":
            futures.append(pool.submit(ask, name))
            wait_until(lambda: len(residency._line) == len(futures))
        room.leave()
        for future in futures:
            future.result(LONG_S)
    assert order == ["a", "b", "c", "d"]
    assert residency.use.used_bytes == 0


def test_without_room_and_nobody_who_may_go_it_says_who_holds_what(cost: Cost) -> None:
    residency = Residency(SIZE)
    residency.admit("big", "k", 0, is_pinned=False)
    with pytest.raises(NoRoomError, match=r"no room for late now: .* others hold big 100.0 MiB"):
        residency.admit("late", "k", 0, is_pinned=False, may_evict=False)


class Occupant:
    """Leaves its room when it is told to, once it may."""

    is_busy = False
    used_s = 0.0

    def __init__(self) -> None:
        self.is_told = threading.Event()
        self.may_leave = threading.Event()

    def evict(self, reason: str, room: Room) -> None:
        self.is_told.set()
        assert self.may_leave.wait(LONG_S)
        room.leave()


def is_waited_for(residency: Residency) -> bool:
    """Whether somebody sleeps until something changes."""
    return bool(residency._changed._waiters)  # type: ignore[attr-defined]


def test_who_waits_for_room_gets_that_of_a_model_that_was_still_loading(cost: Cost) -> None:
    residency = Residency(SIZE)
    loading = residency.admit("loading", "k", 0, is_pinned=False)
    occupant: Any = Occupant()
    occupant.may_leave.set()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(residency.admit, "late", "l", 0, is_pinned=False)
        wait_until(lambda: is_waited_for(residency))
        loading.occupy(occupant)
        try:
            assert waiting.result(LONG_S).name == "late"
        finally:
            residency.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is for those who wait for room."""
    now = [0.0]
    monkeypatch.setattr(residency_module, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("may_evict", [True, False])
def test_who_fits_is_not_refused_for_what_others_wait_for(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], may_evict: bool
) -> None:
    monkeypatch.setattr(costs, "recall", lambda key: Cost(int(key), int(key), is_measured=True))
    residency = Residency(4)
    occupant: Any = Occupant()
    residency.admit("old", "3", 0, is_pinned=False).occupy(occupant)
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(residency.admit, "large", "3", 0, is_pinned=False)
        assert occupant.is_told.wait(LONG_S)
        small = pool.submit(residency.admit, "small", "1", 0, is_pinned=False, may_evict=may_evict)
        wait_until(lambda: small.done() or is_waited_for(residency))
        clock[0] += WAIT_S
        with residency._changed:
            residency._changed.notify_all()
        wait_until(lambda: small.done() or is_waited_for(residency))
        occupant.may_leave.set()
        assert small.result(LONG_S).size_bytes == 1
        assert large.result(LONG_S).size_bytes == 3
    assert residency.use.used_bytes == 4


def test_who_waits_behind_one_that_never_ends_is_told_so(cost: Cost, clock: list[float]) -> None:
    residency = Residency(2 * SIZE)
    occupant: Any = Occupant()
    residency.admit("pinned", "k", 0, is_pinned=True)
    residency.admit("old", "k", 0, is_pinned=False).occupy(occupant)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(residency.admit, "first", "k", 0, is_pinned=False)
        assert occupant.is_told.wait(LONG_S)
        second = pool.submit(residency.admit, "second", "k", 0, is_pinned=False)
        wait_until(lambda: is_waited_for(residency))
        clock[0] += 2 * WAIT_S
        with residency._changed:
            residency._changed.notify_all()
        with pytest.raises(NoRoomError, match="second now: others have waited for it longer"):
            second.result(LONG_S)
        occupant.may_leave.set()
        assert first.result(LONG_S)


class Holding(Session):
    inputs = outputs = ()

    def __init__(self, outside: int) -> None:
        self._outside = outside

    def outside_bytes(self) -> int:
        return self._outside

    def _run(self, feeds: Any) -> Any:
        return {}

    def close(self) -> None: ...


def test_what_a_session_holds_elsewhere_counts_and_is_remembered() -> None:
    residency = Residency(10 * SIZE)
    room = residency.admit("m", "a-key", 5 * MIB, is_pinned=False)
    assert not room.cost.is_measured
    room.settle(Holding(3 * SIZE))
    assert room.cost.is_measured
    assert 3 * SIZE <= room.cost.resident_bytes < 4 * SIZE
    assert residency.use.used_bytes == room.cost.resident_bytes
    assert costs.recall("a-key") == room.cost
    room.leave()
    again = residency.admit("m", "a-key", 5 * MIB, is_pinned=False)
    assert again.size_bytes == room.cost.peak_bytes


@pytest.mark.parametrize("is_pinned", [False, True])
def test_a_model_that_turns_out_too_large_is_refused_after_its_first_load(is_pinned: bool) -> None:
    residency = Residency(2 * SIZE)
    key = f"too large, {is_pinned}"
    room = residency.admit("m", key, MIB, is_pinned=is_pinned)
    with pytest.raises(
        UnavailableError,
        match=r"m does not fit: it takes 3\d\d\.\d MiB \(measured here\), "
        r"and there are 200.0 MiB for models$",
    ):
        room.settle(Holding(3 * SIZE))
    room.leave()
    with pytest.raises(UnavailableError, match="does not fit"):
        residency.admit("m", key, MIB, is_pinned=is_pinned)


def test_the_gauge_sees_what_is_allocated_and_its_peak() -> None:
    gauge = Gauge()
    kept = np.ones(20 * MIB, np.uint8)
    spent = np.ones(40 * MIB, np.uint8)
    del spent
    cost = gauge.read(Holding(0))
    assert cost is not None
    assert 15 * MIB < cost.resident_bytes < 35 * MIB
    assert cost.peak_bytes > 50 * MIB
    assert kept.any()


@pytest.mark.parametrize("what", ["another load", "a close"])
def test_a_measurement_that_was_disturbed_is_none(what: str) -> None:
    gauge = Gauge()
    if what == "a close":
        Gauge.disturb()
    else:
        other = Gauge()
        assert other.read(Holding(0)) is None
    assert gauge.read(Holding(0)) is None


def test_a_cost_that_can_not_be_kept_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "edge").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    costs.remember("key", Cost(1, 2, is_measured=True))
    assert costs.recall("key") is None


@pytest.fixture
def heavy(make_bundle: MakeBundle, make_variant: Callable[..., Variant]) -> Path:
    """Real weights of 32 MB on ONNX Runtime."""
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(1).random((3, 2_700_000), np.float32)
    graph = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["z"]), make.make_node("ReduceSum", ["z"], ["y"])],
        "heavy",
        [make.make_tensor_value_info("x", kind, ["batch", 3])],
        [make.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opsets = [make.make_opsetid("", 17)]
    model = make.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return make_bundle(make_variant("ort", "onnxruntime", outputs=()), model=model)


def test_a_real_models_memory_is_measured_and_comes_back(heavy: Path) -> None:
    if not plugins.backend("onnxruntime").availability().ready:
        pytest.skip("needs onnxruntime")
    with edge.Runtime(heavy) as runtime:
        runtime.infer("product", {"x": ONES})
        memory = runtime.status()[0].memory
        assert memory is not None
        assert memory.is_measured
        assert 28 * MIB < memory.resident_bytes < 128 * MIB
        before = resident_bytes()
        runtime.unload("product")
        assert before - resident_bytes() > 28 * MIB


def test_an_engine_that_fails_as_it_closes_gives_its_room_back_and_fails_no_request(
    make_bundle: MakeBundle, cost: Cost, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(session: Session) -> None:
        raise RuntimeError("the driver is gone")

    watched.at_close = fail
    with edge.Runtime(folder_of(make_bundle, 2), memory=SIZE) as runtime:
        for name in ("m00", "m01", "m00"):
            assert runtime.infer(name, {"x": ONES})
        runtime.unload("m00")
        assert runtime.memory.used_bytes == 0
    assert "could not be closed" in caplog.text
    assert "the driver is gone" in caplog.text


def test_an_engine_that_fails_as_what_is_not_wanted_is_closed_gives_its_room_back(
    make_bundle: MakeBundle, cost: Cost, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(session: Session) -> None:
        raise RuntimeError("the driver is gone")

    def elsewhere(session: Session) -> Session:
        why = "the engine took the cpu"
        session.placement = replace(session.placement, is_fallback=True, reason=why)
        return watch(session)

    watch, watched.at_close = watched.watch, fail
    monkeypatch.setattr(watched, "watch", elsewhere)
    with edge.Runtime(make_bundle(), memory=SIZE, fallback="deny") as runtime:
        with pytest.raises(UnavailableError, match="the engine took the cpu"):
            runtime.infer("product", {"x": ONES})
        assert (watched.open, runtime.memory.used_bytes) == (0, 0)


def test_closing_waits_for_what_is_just_unloaded(make_bundle: MakeBundle, watched: Watched) -> None:
    is_closing, may_close = threading.Event(), threading.Event()

    def take_its_time(session: Session) -> None:
        is_closing.set()
        assert may_close.wait(LONG_S)

    watched.at_close = take_its_time
    with edge.Runtime(make_bundle(), idle_s=0.01) as runtime:
        runtime.load_all()
        assert is_closing.wait(LONG_S)
        threading.Timer(0.1, may_close.set).start()
    assert may_close.is_set()
    assert runtime.memory.used_bytes == 0


def test_a_load_that_ends_in_a_bug_of_the_engine_leaves_nothing(
    make_bundle: MakeBundle, cost: Cost, watched: Watched
) -> None:
    def fail(session: Session) -> None:
        raise RuntimeError("no such kernel")

    watched.at_run = fail
    batches = {"product": ModelSettings(max_batch=4)}
    with edge.Runtime(make_bundle(), memory=SIZE, models=batches) as runtime:
        with pytest.raises(RuntimeError, match="no such kernel"):
            runtime.model("product")
        assert (watched.open, runtime.memory.used_bytes) == (0, 0)
        watched.at_run = None
        assert runtime.infer("product", {"x": ONES})


@pytest.mark.parametrize(
    ("said", "size"),
    [("2GiB", 2 << 30), ("1.5 GB", 1_500_000_000), ("800M", 800 * MIB), (7, 7), ("0", 0)],
)
def test_sizes_are_what_people_write(said: int | str, size: int) -> None:
    assert parse_bytes(said) == budget_bytes(said) == size


@pytest.mark.parametrize("said", ["", "much", "-1", "2 XB", "1e3"])
def test_what_is_no_size_is_refused(said: str) -> None:
    with pytest.raises(InputError, match="is no size"):
        parse_bytes(said)


def test_by_default_models_may_have_what_the_system_leaves() -> None:
    memory = edge.core.profile.load_profile("host").memory  # type: ignore[attr-defined]
    assert 0 < budget_bytes(None) < memory.bytes
