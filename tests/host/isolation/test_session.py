from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import LONG_S

from edge.core.errors import EngineError, InputError, UnavailableError
from edge.core.manifest import Variant
from edge.core.tensor import TensorSpec
from edge.host.isolation.process import Worker
from edge.host.isolation.session import IsolatedSession

from .conftest import until

Open = Callable[..., IsolatedSession]
MakeVariant = Callable[..., Variant]
X = TensorSpec("x", "float32", ("batch", 3))
ONES = np.ones((2, 3), np.float32)


def deed(*what: str, **tensors: np.ndarray) -> dict[str, Any]:
    return {**tensors, "deed": np.array(what, object)}


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_session_in_a_process_says_what_the_engine_does(
    open_session: Open, make_variant: MakeVariant
) -> None:
    session = open_session(make_variant())
    assert session.inputs == make_variant().inputs
    assert session.outputs == make_variant().outputs
    assert session.placement.actual == "cpu"
    assert session.pid != os.getpid()
    assert is_alive(session.pid)
    assert session.resident_bytes() > 1_000_000
    assert (session.restarts, session.failure) == (0, None)
    outputs = session.run({"x": ONES})
    assert outputs["y"].shape == (2, 4)
    session.close()
    assert session.pid == 0


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2],
        np.array(5, np.int64),
        np.empty((0, 4), np.uint8),
        np.array([[True, False]]),
        np.array([1, 2.5], np.float16),
        np.array([1 + 2j], np.complex64),
        np.arange(3_000_000, dtype=np.uint8),
        np.array(["plain", "ünïcödé 😀", ""], object),
        np.array([b"\x00bytes\xff", b""], object),
        np.array([["a", b"b"]], object),
        np.array("alone", object),
        np.array(["fixed", "width"]),
        np.array([b"fixed", b"width"]),
        np.empty((0,), object),
    ],
    ids=lambda array: f"{array.dtype.name}{array.shape}",
)
def test_tensors_come_through_as_they_are(open_fragile: Open, array: np.ndarray) -> None:
    dtype = "string" if array.dtype.kind in "OSU" else array.dtype.name
    session = open_fragile(TensorSpec("x", dtype, tuple("abc"[: array.ndim])))
    for _ in range(3):
        out = session.run(deed(x=array))["y"]
        np.testing.assert_array_equal(out, array)
        assert out.dtype == array.dtype.newbyteorder("=")
        assert out.flags.writeable
        assert [type(item) for item in out.flat] == [type(item) for item in array.flat]


def test_a_number_type_that_numpy_lacks_comes_through(open_fragile: Open) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    session = open_fragile(TensorSpec("x", "bfloat16", ("a",)))
    out = session.run(deed(x=np.array([1.5, -2], ml_dtypes.bfloat16)))["y"]
    assert out.dtype == ml_dtypes.bfloat16
    assert out.tolist() == [1.5, -2]


def test_shapes_may_change_from_run_to_run(open_fragile: Open) -> None:
    session = open_fragile(X, TensorSpec("x2", "uint8", ("n",)))
    random = np.random.default_rng(3)
    for rows in random.integers(0, 60_000, 30):
        feeds = {
            "x": random.random((rows, 3), np.float32),
            "x2": random.integers(0, 255, 60_000 - rows, np.uint8),
        }
        outputs = session.run(deed(**feeds))
        np.testing.assert_array_equal(outputs["y"], feeds["x"])
        np.testing.assert_array_equal(outputs["y2"], feeds["x2"])


def test_an_answer_stays_the_callers_own(open_fragile: Open) -> None:
    session = open_fragile(X)
    first = session.run(deed(x=ONES))["y"]
    session.run(deed(x=ONES * 2))
    np.testing.assert_array_equal(first, ONES)


def test_many_threads_get_each_their_own_answer(open_fragile: Open) -> None:
    session = open_fragile(X, limits={"lanes": 3})

    def ask(number: int) -> bool:
        x = np.full((number % 50 + 1, 3), number, np.float32)
        return bool(np.array_equal(session.run(deed(x=x))["y"], x))

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(1000)))


def test_what_the_worker_held_for_a_while_is_its_peak(open_fragile: Open) -> None:
    session = open_fragile(X)
    session.run(deed(x=ONES))
    before = session.outside_peak_bytes()
    session.run(deed("swell", x=ONES))
    assert session.outside_peak_bytes() - before > 50 << 20
    assert session.outside_bytes() < session.outside_peak_bytes() - (50 << 20)


def test_runs_go_on_at_the_same_time(open_fragile: Open, tmp_path: Path) -> None:
    session = open_fragile(X, limits={"lanes": 2})
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(session.run, deed(f"await {tmp_path / 'end'}", x=ONES))
        until((tmp_path / "end.awaited").exists)
        assert session.run(deed(x=ONES))
        assert not slow.done()
        (tmp_path / "end").touch()
        assert slow.result()


def test_an_error_of_the_engine_is_the_same_here(open_fragile: Open) -> None:
    session = open_fragile(X)
    with pytest.raises(EngineError, match="it does not work") as caught:
        session.run(deed("fail", x=ONES))
    assert caught.value.hint == "try another one"
    with pytest.raises(EngineError, match="KeyError: 'no such thing'"):
        session.run(deed("bug", x=ONES))
    with pytest.raises(InputError, match="must have shape"):
        session.run(deed(x=ONES[:, :2]))
    assert session.restarts == 0
    np.testing.assert_array_equal(session.run(deed(x=ONES))["y"], ONES)


def test_objects_that_are_no_text_are_refused(open_fragile: Open) -> None:
    session = open_fragile(TensorSpec("x", "string", ("n",)))
    for thing in (object(), "\ud800"):
        with pytest.raises(InputError, match="'x' must hold text only"):
            session.run(deed(x=np.array([thing], object)))
    assert session.run(deed(x=np.array([np.str_("fine")], object)))["y"].tolist() == ["fine"]


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("kill", "was killed by SIGKILL"),
        ("segfault", "was killed by SIGSEGV"),
        ("exit", "ended with exit code 7; its last words: it was too much"),
    ],
)
def test_a_crash_says_how_and_the_worker_comes_back(
    open_fragile: Open, what: str, how: str
) -> None:
    session = open_fragile(X)
    former = session.pid
    with pytest.raises(EngineError, match=f"the worker of glass \\(pid {former}\\) {how}"):
        session.run(deed(what, x=ONES))
    np.testing.assert_array_equal(session.run(deed(x=ONES))["y"], ONES)
    assert session.restarts == 1
    assert session.pid != former
    assert not is_alive(former)


def test_a_worker_that_is_gone_has_no_pid_any_more(
    open_fragile: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    obituary = Worker._obituary

    def late(worker: Worker, code: int) -> EngineError:
        assert may_end.wait(LONG_S)
        return obituary(worker, code)

    monkeypatch.setattr(Worker, "_obituary", late)
    session = open_fragile(X)
    former = session.pid
    os.kill(former, signal.SIGKILL)
    until(lambda: not is_alive(former))
    try:
        until(lambda: session.pid == 0)
        assert session.worker_status().pid == 0
    finally:
        may_end.set()
    assert until(lambda: session.pid) != former


def test_a_crash_takes_only_the_runs_along_that_are_in_flight(
    open_fragile: Open, caplog: pytest.LogCaptureFixture
) -> None:
    session = open_fragile(X, limits={"lanes": 2})
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(session.run, deed("log", "hang", x=ONES))
        until(lambda: "it creaks" in caplog.text)  # the worker has it
        assert session.run(deed(x=ONES))
        with pytest.raises(EngineError, match="SIGKILL"):
            session.run(deed("kill", x=ONES))
        with pytest.raises(EngineError, match="SIGKILL"):
            slow.result()
    assert session.run(deed(x=ONES))


def test_a_run_that_takes_too_long_costs_the_worker_its_life(open_fragile: Open) -> None:
    session = open_fragile(X, limits={"timeout_s": 3})
    former = session.pid
    with pytest.raises(EngineError, match=r"took more than 3 s for a run and was killed") as late:
        session.run(deed("hang", x=ONES))
    assert "timeout_s" in late.value.hint
    assert session.run(deed(x=ONES))
    assert session.restarts == 1
    assert not is_alive(former)


def test_a_worker_without_sockets_is_ended(open_fragile: Open) -> None:
    session = open_fragile(X)
    with pytest.raises(EngineError, match="closed its sockets and was killed"):
        session.run(deed("close", x=ONES))
    assert session.run(deed(x=ONES))


def test_a_worker_that_dies_again_and_again_is_given_up(
    open_fragile: Open, caplog: pytest.LogCaptureFixture
) -> None:
    session = open_fragile(X, limits={"deaths": 3})
    for _ in range(3):
        with pytest.raises(EngineError, match="exit code 7"):
            session.run(deed("exit", x=ONES))
    with pytest.raises(UnavailableError, match=r"ended 3 times within 60 s.*exit code 7") as caught:
        session.run(deed(x=ONES))
    assert "load it again" in caught.value.hint
    assert str(session.failure) == str(caught.value)
    assert (session.pid, session.restarts, session.resident_bytes()) == (0, 2, 0)
    assert session.worker_status().failure == str(caught.value)
    assert [r.levelname for r in caplog.records if "exit code 7" in r.message] == [
        *("WARNING", "WARNING", "ERROR")
    ]


def test_runs_wait_only_so_long_for_a_worker(open_fragile: Open) -> None:
    session = open_fragile(X, limits={"start_timeout_s": 1.5, "delay_s": 60, "longest_delay_s": 60})
    os.kill(session.pid, signal.SIGKILL)
    until(lambda: session.pid == 0)
    with pytest.raises(UnavailableError, match="glass waits for its worker"):
        session.run(deed(x=ONES))
    session.close()  # and nobody waits for the delay to pass


def test_a_worker_that_comes_back_elsewhere_does_not_serve(
    open_fragile: Open, tmp_path: Path
) -> None:
    session = open_fragile(X, moves_to=str(tmp_path / "moved"), limits={"deaths": 2})
    (tmp_path / "moved").touch()
    os.kill(session.pid, signal.SIGKILL)
    until(lambda: session.failure)
    assert "came back on elsewhere instead of cpu" in str(session.failure)
    assert session.placement.actual == "cpu"


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("segfault", "was killed by SIGSEGV"),
        ("exit", "ended with exit code 7; its last words: it was too much"),
        ("fail", "it does not work"),
        ("bug", "KeyError: 'no such thing'"),
    ],
)
def test_a_worker_that_does_not_open_is_not_started_again(
    open_fragile: Open, what: str, how: str
) -> None:
    with pytest.raises(EngineError, match=how):
        open_fragile(X, at_open=what)


def test_a_worker_that_never_comes_up_is_ended(open_fragile: Open) -> None:
    with pytest.raises(EngineError, match="did not come up within 1 s and was killed"):
        open_fragile(X, at_open="hang", limits={"first_timeout_s": 1})


def test_an_option_that_can_not_be_handed_over_is_named(open_fragile: Open) -> None:
    with pytest.raises(InputError, match="an option of glass") as caught:
        open_fragile(X, thing=object())
    assert "inproc" in caught.value.hint


def test_what_a_worker_logs_is_in_the_hosts_log(
    open_fragile: Open, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    session = open_fragile(X)
    session.run(deed("log", "print", x=ONES))
    session.close()
    said = [(r.name, r.levelname, r.getMessage()) for r in caplog.records]
    assert ("fragile", "WARNING", "glass: it creaks\nand cracks") in said
    assert ("edge.host.isolation.process", "INFO", "glass: plain words") in said
    assert capfd.readouterr().out == ""


def test_close_lets_a_run_end_and_refuses_others(open_fragile: Open, tmp_path: Path) -> None:
    session = open_fragile(X)
    pid = session.pid
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(session.run, deed(f"await {tmp_path / 'end'}", x=ONES))
        until((tmp_path / "end.awaited").exists)
        closing = [threading.Thread(target=session.close) for _ in range(3)]
        for thread in closing:
            thread.start()
        until(lambda: session._supervisor.worker is None)
        late = pool.submit(session.run, deed(x=ONES))
        (tmp_path / "end").touch()
        with pytest.raises(UnavailableError, match="closed"):
            late.result()
        np.testing.assert_array_equal(slow.result()["y"], ONES)
        for thread in closing:
            thread.join()
    assert not is_alive(pid)
    session.close()


def test_close_waits_only_so_long_for_a_run(
    open_fragile: Open, caplog: pytest.LogCaptureFixture
) -> None:
    session = open_fragile(X, limits={"close_timeout_s": 0.2})
    pid = session.pid
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(session.run, deed("log", "hang", x=ONES))
        until(lambda: "it creaks" in caplog.text)
        session.close()
        with pytest.raises(EngineError, match="the worker of glass"):
            stuck.result()
    assert not is_alive(pid)


def test_a_session_that_is_forgotten_takes_its_worker_along(open_fragile: Open) -> None:
    # Not by the fixture, which remembers it.
    session: Any = open_fragile(X)
    pid = session.pid
    twin = IsolatedSession(session._supervisor, session._supervisor._opened)
    session._forgotten.detach()
    del twin
    gc.collect()
    until(lambda: not is_alive(pid))


def test_no_deadlock_whenever_a_worker_is_killed(open_fragile: Open) -> None:
    session = open_fragile(X, limits={"deaths": 1000, "lanes": 3})
    answers = {"right": 0, "wrong": 0, "failed": 0}
    stop = threading.Event()

    def ask(number: int) -> None:
        x = np.full((number * 2000 + 1, 3), number, np.float32)
        while not stop.is_set():
            try:
                right = np.array_equal(session.run(deed(x=x))["y"], x)
                answers["right" if right else "wrong"] += 1
            except EngineError:
                answers["failed"] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    random = np.random.default_rng(7)
    for _ in range(12):
        time.sleep(random.uniform(0, 0.5))
        if pid := session.pid:
            with contextlib.suppress(ProcessLookupError):  # it may be gone by now
                os.kill(pid, signal.SIGKILL)
    before = answers["right"]
    until(lambda: answers["right"] > before + 100)
    stop.set()
    for thread in threads:
        thread.join(LONG_S)
        assert not thread.is_alive()
    assert answers["wrong"] == 0
    assert answers["failed"] <= 12 * 3
