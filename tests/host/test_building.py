"""An engine in the making: what serves meanwhile, and what becomes of either."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from patience import LONG_S

import edge
from edge.core import plugins
from edge.core.contracts import Session
from edge.core.errors import EngineError, UnavailableError
from edge.core.manifest import Variant
from edge.host import BuildProgress, ModelStatus, costs
from edge.host.costs import Cost

MakeVariant = Callable[..., Variant]
MakeBundle = Callable[..., Path]
ONES = np.ones((2, 3), np.float32)
ZEROS = np.zeros((1, 4), np.float32)


@pytest.fixture
def bundle(make_bundle: MakeBundle, make_variant: MakeVariant) -> Path:
    """One variant to be built, which is preferred, and one that runs everywhere."""
    made = make_variant("made", "forge", chosen=True)
    return make_bundle(made, make_variant(), expected=ZEROS, tolerance=1.5)


@pytest.fixture
def alone(make_bundle: MakeBundle, make_variant: MakeVariant) -> Path:
    """Nothing but what has to be built."""
    return make_bundle(make_variant("made", "forge", chosen=True), name="alone")


def status(runtime: edge.Runtime) -> ModelStatus:
    (one,) = runtime.status()
    return one


def test_another_variant_serves_while_the_engine_is_built(
    bundle: Path, forge: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with edge.Runtime(bundle) as runtime:
        assert runtime.infer("product", {"x": ONES})["y"].shape == (2, 4)
        assert forge.started.wait(LONG_S)
        now = status(runtime)
        assert (now.state, now.variant, now.engine) == ("ready", "null-fp32", "null")
        assert now.is_fallback
        assert now.choice == "made was chosen at conversion and is being built"
        assert now.reason == "made is being built: 42 % (hammering)"
        assert now.building is not None
        assert (now.building.phase, now.building.share) == ("hammering", 0.42)
        assert runtime.is_ready
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "made was chosen at conversion and is being built" in record.getMessage()


def test_the_built_engine_takes_over_in_the_same_model(bundle: Path, forge: Any) -> None:
    forge.answer = 1.0
    with edge.Runtime(bundle) as runtime:
        model = runtime.model("product")
        assert model.infer({"x": ONES})["y"].max() == 0
        forge.finish()
        assert model.infer({"x": ONES})["y"].max() == 1
        assert runtime.model("product") is model
        now = status(runtime)
        assert (now.state, now.variant, now.engine) == ("ready", "made", "forge")
        assert (now.is_fallback, now.reason, now.building) == (False, "", None)
        assert now.choice == "chosen at conversion"
        assert now.statistics is not None
        assert now.statistics.success_count == 2
    assert forge.sessions[0].closed


def test_no_request_is_lost_when_the_engine_takes_over(bundle: Path, forge: Any) -> None:
    forge.answer = 1.0
    with edge.Runtime(bundle) as runtime, ThreadPoolExecutor(4) as pool:
        model = runtime.model("product")
        have_begun = threading.Barrier(5)

        def ask_until_it_is_built(number: int) -> list[float]:
            answers: list[float] = []
            while 1.0 not in answers:
                feeds = {"x": ONES}
                answer = model.infer(feeds) if number % 2 else model.submit(feeds).result()
                answers.append(float(answer["y"].max()))
                if len(answers) == 1:
                    have_begun.wait(LONG_S)
            return answers

        asking = [pool.submit(ask_until_it_is_built, number) for number in range(4)]
        have_begun.wait(LONG_S)
        forge.go.set()
        for future in asking:
            *before, last = future.result(LONG_S)
            assert (set(before), last) == ({0.0}, 1.0)
        assert model.statistics.snapshot().failure_count == 0


def test_an_engine_that_fails_its_goldens_does_not_take_over(bundle: Path, forge: Any) -> None:
    forge.answer = 7.0
    with edge.Runtime(bundle) as runtime:
        model = runtime.model("product")
        forge.finish()
        assert model.infer({"x": ONES})["y"].max() == 0
        now = status(runtime)
        assert (now.state, now.variant, now.is_fallback) == ("ready", "null-fp32", True)
        assert "made does not answer as the source model did" in now.choice
        assert forge.sessions[0].closed


def test_a_build_that_fails_leaves_the_fallback_and_says_why(bundle: Path, forge: Any) -> None:
    forge.fail["made"] = EngineError("out of memory while hammering")
    with edge.Runtime(bundle, fallback="allow") as runtime:
        model = runtime.model("product")
        forge.finish()
        now = status(runtime)
        assert (now.state, now.is_fallback, now.building) == ("ready", True, None)
        assert now.choice == (
            "made was chosen at conversion but can not run here: out of memory while hammering"
        )
        assert runtime.is_ready
        assert runtime.infer("product", {"x": ONES})
        assert runtime.model("product") is model
        assert model.infer({"x": ONES})


def test_a_defect_of_the_builder_is_a_failed_build(alone: Path, forge: Any) -> None:
    forge.fail["made"] = ZeroDivisionError("oops")
    with edge.Runtime(alone) as runtime:
        runtime.load_all()
        forge.finish()
        assert status(runtime).state == "failed"
        assert "ZeroDivisionError('oops')" in status(runtime).reason


@pytest.mark.parametrize("name", ["bundle", "alone"])
def test_nothing_serves_meanwhile_where_that_is_denied_or_there_is_nothing(
    name: str, request: pytest.FixtureRequest, forge: Any
) -> None:
    path = request.getfixturevalue(name)
    with edge.Runtime(path, fallback="deny" if name == "bundle" else "warn") as runtime:
        runtime.load_all()
        assert forge.started.wait(LONG_S)
        now = status(runtime)
        assert (now.state, now.variant, runtime.is_ready) == ("building", "", False)
        assert runtime.is_loading
        assert now.reason == "made is being built: 42 % (hammering)"
        forge.finish()
        now = status(runtime)
        assert (now.state, now.variant, now.is_fallback) == ("ready", "made", False)
        assert runtime.is_ready
        assert not runtime.is_loading


def test_a_denied_fallback_fails_with_the_build(bundle: Path, forge: Any) -> None:
    forge.fail["made"] = EngineError("out of memory while hammering", hint="buy some")
    with edge.Runtime(bundle, fallback="deny") as runtime:
        runtime.load_all()
        forge.finish()
        assert status(runtime).state == "failed"
        assert status(runtime).reason == "out of memory while hammering"
        with pytest.raises(UnavailableError, match="out of memory") as caught:
            runtime.model("product")
        assert caught.value.hint == "buy some"


def test_who_asks_for_a_model_that_nothing_can_serve_waits_for_its_engine(
    alone: Path, forge: Any
) -> None:
    with edge.Runtime(alone) as runtime, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(runtime.infer, "alone", {"x": ONES}) for _ in range(2)]
        assert forge.started.wait(LONG_S)
        assert not any(answer.done() for answer in answers)
        forge.go.set()
        assert all(answer.result(LONG_S)["y"].shape == (2, 4) for answer in answers)
    assert len(forge.sessions) == 1


def test_closing_does_not_wait_for_a_build_and_what_it_makes_is_never_opened(
    bundle: Path, alone: Path, forge: Any
) -> None:
    runtime = edge.Runtime(bundle, alone)
    runtime.load_all()
    assert forge.started.wait(LONG_S)
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Any] = pool.submit(runtime.model, "alone")
        runtime.close()
        with pytest.raises(UnavailableError, match="runtime is closed"):
            waiting.result(LONG_S)
    assert not forge.go.is_set()
    forge.finish()
    assert forge.sessions == []
    assert len(forge.asked) == 1  # the one whose turn had not come was not begun


def test_an_engine_that_opens_as_the_runtime_closes_is_closed_at_once(
    alone: Path, forge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = edge.Runtime(alone)
    real_open = forge.open

    def close_meanwhile(*args: Any) -> Session:
        session: Session = real_open(*args)
        runtime.close()
        return session

    monkeypatch.setattr(forge, "open", close_meanwhile)
    runtime.load_all()
    forge.finish()
    assert [session.closed for session in forge.sessions] == [1]


def test_a_model_that_is_closed_during_its_build_is_loaded_anew_when_asked_for(
    bundle: Path, forge: Any
) -> None:
    with edge.Runtime(bundle) as runtime:
        runtime.model("product").close()
        assert status(runtime).state == "idle"
        forge.finish()
        assert status(runtime).state == "idle"
        assert forge.sessions[0].closed == 1
        assert runtime.model("product").variant.id == "made"


def test_the_next_variant_is_built_where_the_first_can_not_be(
    make_bundle: MakeBundle, make_variant: MakeVariant, forge: Any
) -> None:
    forge.fail["int8"] = UnavailableError("no room")
    path = make_bundle(
        make_variant("int8", "forge", chosen=True), make_variant("fp16", "forge"), make_variant()
    )
    with edge.Runtime(path) as runtime:
        runtime.model("product")
        forge.finish()
        now = status(runtime)
        assert (now.variant, now.is_fallback) == ("fp16", True)
        assert now.choice == "int8 was chosen at conversion but can not run here: no room"


def test_a_stand_in_that_would_build_the_same_waits_for_its_turn(
    bundle: Path, forge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    null = plugins.backend("null")
    ready = msgspec.structs.replace(null.availability(), stands_in={"forge": ("forge",)})
    opened: list[str] = []
    real_open = null.open

    def watched_open(variant: Variant, *args: Any) -> Session:
        opened.append(variant.id)
        return real_open(variant, *args)

    monkeypatch.setattr(null, "availability", lambda: ready)
    monkeypatch.setattr(null, "open", watched_open)
    forge.fail["made"] = EngineError("out of memory while hammering")
    with edge.Runtime(bundle) as runtime:
        runtime.model("product")
        assert opened == ["null-fp32"]
        forge.finish()
        assert opened == ["null-fp32", "made"]
        now = status(runtime)
        assert (now.variant, now.is_fallback, now.building) == ("null-fp32", True, None)
        assert "out of memory while hammering" in now.choice


def test_an_engine_that_is_there_is_opened_at_once(bundle: Path, forge: Any) -> None:
    forge.built.add("made")
    with edge.Runtime(bundle) as runtime:
        assert runtime.model("product").variant.id == "made"
        assert status(runtime).building is None


def test_load_builds_in_the_foreground_and_says_so(
    bundle: Path, forge: Any, caplog: pytest.LogCaptureFixture
) -> None:
    forge.go.set()
    with caplog.at_level(logging.INFO), edge.load(bundle) as model:
        assert (model.variant.id, model.engine, model.is_fallback) == ("made", "forge", False)
    said = [each.getMessage() for each in caplog.records if each.name.startswith("edge.host")]
    begun, ended = said
    assert begun == "product: building the engine of made for this machine"
    assert ended.startswith("product: built in ")


def test_an_engine_gets_its_own_device_where_none_is_asked_for(bundle: Path, forge: Any) -> None:
    forge.go.set()
    with edge.load(bundle, options={"threads": 2}):
        assert forge.asked[0] == {"threads": 2, "device": "anvil"}


def test_a_version_out_of_the_required_range_is_an_obstacle(
    make_bundle: MakeBundle, make_variant: MakeVariant, forge: Any
) -> None:
    forge.go.set()
    needs = {"requires": {"forge": ">=10.3,<11"}}
    path = make_bundle(make_variant("made", "forge", chosen=True, **needs), make_variant())
    with edge.load(path) as model:
        assert model.variant.id == "made"
    forge.version = "11.4.1"
    with edge.load(path, fallback="allow") as model:
        assert model.choice == (
            "made was chosen at conversion but can not run here: "
            "it needs forge >=10.3,<11, this machine has 11.4.1"
        )


@pytest.mark.parametrize(("sm", "variant"), [("87", "made"), ("72", "null-fp32")])
def test_what_an_engine_knows_of_the_machine_can_be_required(
    sm: str, variant: str, make_bundle: MakeBundle, make_variant: MakeVariant, forge: Any
) -> None:
    forge.go.set()
    forge.facts = {"sm": sm, "cuda": "12.6"}
    needs = {"requires": {"sm": ">=80", "cuda": "12.6"}}
    path = make_bundle(make_variant("made", "forge", chosen=True, **needs), make_variant())
    with edge.load(path) as model:
        assert model.variant.id == variant


def test_what_is_built_takes_the_room_of_what_served_meanwhile(
    bundle: Path, forge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 100 << 20
    monkeypatch.setattr(costs, "recall", lambda key: Cost(size, size, is_measured=True))
    forge.answer = 1.0
    with edge.Runtime(bundle, memory=size) as runtime, ThreadPoolExecutor(2) as pool:
        model = runtime.model("product")
        is_over = threading.Event()

        def ask() -> None:
            while not is_over.is_set():
                model.infer({"x": ONES})

        asking = [pool.submit(ask) for _ in range(2)]
        forge.finish()
        while status(runtime).variant != "made":
            time.sleep(0.001)
        is_over.set()
        for future in asking:
            future.result(LONG_S)
        assert model.infer({"x": ONES})["y"].max() == 1
        assert runtime.memory.used_bytes == size
        assert status(runtime).evictions == {"room": 1}
        assert model.statistics.snapshot().failure_count == 0


def test_what_is_built_says_so_in_one_line() -> None:
    assert str(BuildProgress("v", "timing", 0.426)) == "v is being built: 43 % (timing)"
