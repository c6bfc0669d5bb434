"""Models in processes of their own, as a runtime has them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import LONG_S

import edge
from edge.core.errors import EngineError, UnavailableError
from edge.core.manifest import Variant
from edge.core.tensor import TensorSpec
from edge.host.isolation import limits
from edge.settings import ModelSettings

from .conftest import children, until

MakeVariant = Callable[..., Variant]
MakeBundle = Callable[..., Path]
APART = ModelSettings(isolation="process")
X = np.arange(6, dtype=np.float32).reshape(2, 3)
DEED = TensorSpec("deed", "string", ("deeds",))


@pytest.fixture
def glass(fragile: None, make_bundle: MakeBundle, make_variant: MakeVariant) -> Path:
    """A bundle for the fragile engine, which gives ``x`` back."""
    inputs = (TensorSpec("x", "float32", ("batch", 3)), DEED)
    outputs = (TensorSpec("y", "float32", ("batch", 3)),)
    return make_bundle(
        make_variant("glass", "fragile", inputs=inputs, outputs=outputs), name="glass"
    )


def deed(what: str = "") -> dict[str, Any]:
    return {"x": X, "deed": np.array([what], object)}


def test_a_real_engine_answers_as_it_does_in_this_process(
    engine: str, make_bundle: MakeBundle, make_variant: MakeVariant, product: bytes
) -> None:
    expected = np.ones((1, 3), np.float32) @ np.arange(12, dtype=np.float32).reshape(3, 4)
    bundle = make_bundle(make_variant("real", engine), model=product, expected=expected)
    with edge.load(bundle) as inside, edge.load(bundle, settings=APART) as outside:
        np.testing.assert_array_equal(outside.infer({"x": X})["y"], inside.infer({"x": X})["y"])
        assert outside.placement == inside.placement
        assert outside.inputs == inside.inputs
        assert all(result.passed for result in outside.verify_goldens())
    with pytest.raises(UnavailableError, match="closed"):
        outside.infer({"x": X})


def test_a_model_that_the_engine_refuses_says_why(
    engine: str, make_bundle: MakeBundle, make_variant: MakeVariant
) -> None:
    bundle = make_bundle(make_variant("real", engine), model=b"this is no model")
    errors = []
    for settings in (None, APART):
        with pytest.raises(EngineError, match=r"can not (load|read)") as caught:
            edge.load(bundle, settings=settings)
        errors.append((str(caught.value), caught.value.hint))
    assert errors[0] == errors[1]


def test_a_runtime_says_what_became_of_a_worker(make_bundle: MakeBundle) -> None:
    with edge.Runtime(make_bundle(), models={"product": APART}) as runtime:
        assert runtime.status()[0].worker is None
        runtime.infer("product", {"x": X})
        worker = runtime.status()[0].worker
        assert worker is not None
        assert worker.pid > 0
        assert worker.resident_bytes > 1_000_000
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: (now := runtime.status()[0].worker) and now.restarts == 1)
        assert runtime.infer("product", {"x": X})["y"].shape == (2, 4)
        runtime.unload("product")
        worker = runtime.status()[0].worker
        assert worker is not None
        assert worker.pid == 0
    with edge.Runtime(make_bundle()) as runtime:
        runtime.infer("product", {"x": X})
        assert runtime.status()[0].worker is None


def test_others_miss_nothing_when_a_worker_is_killed_under_load(
    make_bundle: MakeBundle, make_variant: MakeVariant, product: bytes
) -> None:
    pytest.importorskip("onnxruntime")
    bundles = [
        make_bundle(make_variant("real", "onnxruntime"), name=name, model=product)
        for name in ("frail", "apart", "inside")
    ]
    right = X @ np.arange(12, dtype=np.float32).reshape(3, 4)
    settings = {"frail": APART, "apart": APART}
    answers = {name: [0, 0, 0] for name in ("frail", "apart", "inside")}
    stop = threading.Event()

    def ask(name: str, kind: str) -> None:
        good_bad_failed = answers[name]
        while not stop.is_set():
            model = runtime.model(name)
            try:
                future = model.submit({"x": X}) if kind == "submit" else None
                outputs = future.result() if future else model.infer({"x": X})
                good_bad_failed[0 if np.allclose(outputs["y"], right) else 1] += 1
            except EngineError:
                good_bad_failed[2] += 1
            time.sleep(0.002)

    with edge.Runtime(*bundles, models=settings, concurrency=2) as runtime:
        runtime.load_all()
        threads = [
            threading.Thread(target=ask, args=(name, kind))
            for name in answers
            for kind in ("infer", "submit")
        ]
        for thread in threads:
            thread.start()
        for number in range(1, 3):
            status = next(status for status in runtime.status() if status.name == "frail")
            assert status.worker is not None
            assert status.worker.pid > 0
            os.kill(status.worker.pid, signal.SIGKILL)
            until(lambda n=number: _restarts(runtime, "frail") == n)
            before = answers["frail"][0]
            until(lambda before=before: answers["frail"][0] > before + 20)
        stop.set()
        for thread in threads:
            thread.join(LONG_S)
        assert _restarts(runtime, "apart") == 0
        snapshots = {s.name: s.statistics for s in runtime.status()}
    assert [counts[1:] for name, counts in answers.items() if name != "frail"] == [[0, 0], [0, 0]]
    assert answers["frail"][1] == 0
    assert answers["frail"][2] <= 2 * 2  # those in flight, no others
    assert snapshots["inside"].failure_count == snapshots["apart"].failure_count == 0


def _restarts(runtime: edge.Runtime, name: str) -> int:
    worker = next(status.worker for status in runtime.status() if status.name == name)
    return worker.restarts if worker else 0


def test_a_model_that_waits_for_its_worker_takes_no_turn(
    glass: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    dead = tmp_path / "dead"
    options = {"at_open": f"await {tmp_path / 'never'}", "only_if": str(dead)}
    with edge.Runtime(
        glass, make_bundle(), models={"glass": APART}, concurrency=1, options=options
    ) as runtime:
        brittle, sound = runtime.model("glass"), runtime.model("product")
        assert brittle.submit(deed()).result(LONG_S)
        dead.touch()
        with pytest.raises(EngineError):
            brittle.submit(deed("kill")).result(LONG_S)
        waiting = brittle.submit(deed())
        assert sound.submit({"x": X}).result(LONG_S)
        until((tmp_path / "never.awaited").exists)
        assert not waiting.done()
        dead.unlink()
        session: Any = brittle.opened.session
        os.kill(until(lambda: session.pid), signal.SIGKILL)
        np.testing.assert_array_equal(waiting.result(LONG_S)["y"], X)


def test_a_model_whose_worker_failed_for_good_loads_again(
    glass: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = limits.Limits(deaths=1)
    monkeypatch.setattr(limits, "limits_of", lambda *_, **__: quick)
    with edge.Runtime(glass, models={"glass": APART}) as runtime:
        model = runtime.model("glass")
        with pytest.raises(EngineError, match="exit code 7"):
            model.infer(deed("exit"))
        until(lambda: runtime.status()[0].state == "failed")
        assert "exit code 7" in runtime.status()[0].reason
        with pytest.raises(UnavailableError, match="its worker ended"):
            model.infer(deed())
        runtime.load("glass")
        assert runtime.status()[0].state == "ready"
        np.testing.assert_array_equal(model.infer(deed())["y"], X)


HOST = """
import sys, time
import numpy as np
import edge
from edge.settings import ModelSettings

model = edge.load(sys.argv[1], settings=ModelSettings(isolation="process"))
x = {"x": np.ones((2, 3), np.float32)}
model.infer(x)
print(model.opened.session.pid, flush=True)
if sys.argv[2] == "run":
    while True:
        model.infer(x)
"""


@pytest.mark.parametrize("how", ["run", "end"])
def test_a_worker_never_outlives_its_host(make_bundle: MakeBundle, how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOST, str(make_bundle()), how], stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout is not None
        worker = int(host.stdout.readline())
        if how == "run":
            host.kill()
        host.wait(LONG_S)
        assert host.stdout.read() == ""
    until(lambda: not Path(f"/proc/{worker}").exists())


def test_ctrl_c_at_the_terminal_is_for_the_host_alone(make_bundle: MakeBundle) -> None:
    with edge.Runtime(make_bundle(), models={"product": APART}) as runtime:
        runtime.infer("product", {"x": X})
        session: Any = runtime.model("product").opened.session
        assert os.getsid(session.pid) == session.pid
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(session.pid, number)
            assert runtime.infer("product", {"x": X})
        assert session.restarts == 0


def test_a_worker_is_the_first_to_go_when_memory_is_short(make_bundle: MakeBundle) -> None:
    with edge.Runtime(make_bundle(), models={"product": APART}) as runtime:
        runtime.infer("product", {"x": X})
        session: Any = runtime.model("product").opened.session
        who = (session.pid, "self")
        scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in who]
        assert scores[0] > scores[1]


def test_loading_one_stalls_no_other(glass: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    options = {"at_open": "hang", "only_if": str(tmp_path)}
    with (
        ThreadPoolExecutor(1) as pool,
        edge.Runtime(glass, make_bundle(), models={"glass": APART}, options=options) as runtime,
    ):
        loading = pool.submit(runtime.model, "glass")
        until(children)
        for _ in range(100):
            runtime.infer("product", {"x": X})
        assert not loading.done()
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="SIGKILL"):
            loading.result(LONG_S)
