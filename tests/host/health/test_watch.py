"""A runtime that looks after its models while they run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from patience import LONG_S

from edge import Runtime
from edge.bundle import open_bundle
from edge.core.errors import NotFoundError, UnsupportedError
from edge.core.manifest import Metric, Variant
from edge.core.tensor import TensorSpec
from edge.host.health.keeper import HealthKeeper
from edge.host.health.looks import Looker
from edge.host.health.reference import FILE, SOURCE, Gathering, encode, reference_of
from edge.host.health.watch import ModelWatch
from edge.host.statistics import Statistics
from edge.host.status import ModelStatus
from edge.settings import Health, ModelSettings

MakeBundle = Callable[..., Path]
MakeVariant = Callable[..., Variant]

OFTEN = Health(looks_per_s=1000, window=50, labels=100)
INPUTS = (TensorSpec("x", "float32", ("batch", 3)),)
SCORES = (TensorSpec("y", "float32", ("batch", 4)),)


def rows(count: int, offset: float = 0.0) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(offset, 1, (count, 1, 3)).astype(np.float32))


@pytest.fixture
def watched(make_bundle: MakeBundle, make_variant: MakeVariant) -> Path:
    """Classifies by the null engine, which always answers zeros."""
    looker, gathering = Looker("classification", None, None), Gathering()
    for row in rows(200):
        gathering.add(looker.look(looker.take({"x": row}, {"y": np.zeros((1, 4), np.float32)})))
    reference = reference_of("200 samples", 200, {SOURCE: gathering.distributions()})
    assert reference is not None
    return make_bundle(
        make_variant(inputs=INPUTS, outputs=SCORES, metric=Metric("top1", 90.0)),
        name="m",
        task="classification",
        texts={FILE: encode(reference).decode(), "labels.txt": "a\nb\nc\nd\n"},
        reference=FILE,
        labels="labels.txt",
    )


class Clock:
    """As many looks as there are inferences, however fast they are."""

    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


@pytest.fixture
def _every_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.host.health.watch._clock", Clock())


def keeper_of(runtime: Runtime) -> HealthKeeper:
    assert runtime.oversight.health is not None
    return runtime.oversight.health


@pytest.mark.usefixtures("_every_inference")
@pytest.mark.parametrize("way", ["infer", "submit"])
def test_a_shift_of_the_input_is_found_however_requests_come(watched: Path, way: str) -> None:
    with Runtime(watched, health=OFTEN) as runtime:
        model = runtime.model("m")

        def send(row: np.ndarray) -> None:
            if way == "infer":
                runtime.infer("m", {"x": row})
            else:
                model.submit({"x": row}).result()
            keeper_of(runtime).look(0.0)

        for row in rows(60):
            send(row)
        assert runtime.health()[0].drift.state == "stable"
        assert runtime.health()[0].drift.reference == "200 samples, 200 samples"
        for row in rows(60, offset=3):
            send(row)
        drift = runtime.health()[0].drift
        assert drift.state == "drifted"
        assert {moved.name for moved in drift.moved} == {f"input.x.{i}" for i in range(3)}


def test_no_more_is_looked_at_than_was_allowed(
    watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("edge.host.health.watch._clock", lambda: now[0])
    with open_bundle(watched) as bundle:
        watch = ModelWatch(bundle, Health(looks_per_s=2.0))
        run = watch.around(lambda feeds: {"y": np.zeros((1, 4))}, bundle.manifest.variants[0])
        for _ in range(80):  # ten seconds
            run({"x": np.zeros((1, 3))})
            now[0] += 0.125
        assert len(watch._waiting) == 20


def test_what_waits_is_bounded(watched: Path) -> None:
    with open_bundle(watched) as bundle:
        watch = ModelWatch(bundle, Health(looks_per_s=1000))
        for _ in range(1000):
            watch._take("v", {"x": np.zeros((1, 3))}, {"y": np.zeros((1, 4))})
        assert len(watch._waiting) <= 32


@pytest.mark.usefixtures("_every_inference")
@pytest.mark.parametrize("where", ["take", "look"])
def test_a_defect_here_costs_no_inference_and_is_logged_once(
    watched: Path, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Looker, where, fail)
    with Runtime(watched, health=OFTEN) as runtime:
        for row in rows(5):
            assert runtime.infer("m", {"x": row})["y"].shape == (1, 4)
            keeper_of(runtime).look(0.0)
        drift = runtime.health()[0].drift
    assert (drift.state, drift.reason) == (
        "no-reference",
        "looking failed: ZeroDivisionError: a defect",
    )
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1


def test_a_model_without_a_reference_says_so(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle(), health=OFTEN) as runtime:
        runtime.load_all()
        drift = runtime.health()[0].drift
    assert drift.state == "no-reference"
    assert "--eval" in drift.why


def test_a_damaged_reference_leaves_the_model_alone(make_bundle: MakeBundle) -> None:
    path = make_bundle(texts={FILE: "{"}, reference=FILE)
    with Runtime(path, health=OFTEN) as runtime:
        runtime.infer("product", {"x": np.zeros((1, 3), np.float32)})
        assert "is not valid" in runtime.health()[0].drift.why


def test_all_of_it_can_be_off(watched: Path) -> None:
    with Runtime(watched, health=Health(drift=False, latency=False)) as runtime:
        runtime.infer("m", {"x": rows(1)[0]}, request_id="a")
        keeper_of(runtime).look(0.0)
        assert set(runtime.health()[0].states.values()) == {"off"}
        assert runtime.model("m").seat.take().run.__qualname__ == "Session.run"
    with Runtime(watched) as runtime:
        assert runtime.health() == []
        with pytest.raises(UnsupportedError, match="nobody looks"):
            runtime.label("m", "a", 1)


def test_its_thread_ends_with_the_runtime(watched: Path) -> None:
    others = set(threading.enumerate())

    def more() -> list[str]:
        return [t.name for t in threading.enumerate() if t not in others if "health" in t.name]

    with Runtime(watched, health=OFTEN):
        assert more() == ["edge-health"]
    assert more() == []


def test_a_failing_look_at_models_is_logged_once_and_goes_on(
    watched: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    done = threading.Event()

    def look(self: HealthKeeper, now_s: float) -> None:
        looks.append(now_s)
        if len(looks) == 3:
            done.set()
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("edge.host.health.keeper.LOOK_S", 0.001)
    monkeypatch.setattr(HealthKeeper, "look", look)
    with Runtime(watched, health=OFTEN):
        assert done.wait(LONG_S)
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1


def test_latency_of_what_is_loaded_anew_is_not_held_against_what_was_there(watched: Path) -> None:
    statuses: list[ModelStatus] = []
    keeper = HealthKeeper(OFTEN, lambda: (statuses, None))
    with open_bundle(watched) as bundle:
        variant = bundle.manifest.variants[0].id
        for count, now_s in ((100, 0.0), (300, 20.0)):
            keeper.watch(bundle)
            statistics = Statistics()
            for _ in range(count):
                statistics.success(2_000_000)
            status = ModelStatus("m", "1", "ready", variant=variant)
            statuses[:] = [msgspec.structs.replace(status, statistics=statistics.snapshot())]
            keeper.look(now_s)
            assert keeper.health()[0].latency.count == 0


def test_labels_find_the_version_that_answered(
    make_bundle: MakeBundle, make_variant: MakeVariant
) -> None:
    paths = [
        make_bundle(
            make_variant(inputs=INPUTS, outputs=SCORES),
            name="m",
            version=version,
            task="classification",
        )
        for version in ("1", "2")
    ]
    with Runtime(*paths, health=OFTEN) as runtime:
        for version in ("1", "2"):
            runtime.infer("m", {"x": rows(1)[0]}, version, request_id=f"by-{version}")
        runtime.label("m", "by-1", 0)
        runtime.label("m", "by-2", 1)
        with pytest.raises(NotFoundError, match="remembers no answer"):
            runtime.label("m", "by-3", 1)
        values = {each.version: each.accuracy.value for each in runtime.health()}
    assert values == {"1": 100.0, "2": 0.0}


def test_what_was_never_loaded_has_answered_nothing(watched: Path) -> None:
    with Runtime(watched, health=OFTEN) as runtime:
        with pytest.raises(NotFoundError, match="never loaded"):
            runtime.label("m", "a", 1)
        with pytest.raises(NotFoundError, match="no model named"):
            runtime.label("other", "a", 1)


def test_answers_in_batches_are_remembered_one_by_one(watched: Path) -> None:
    """Requests that ran as one have labels of their own."""
    settings = {"m": ModelSettings(max_batch=4)}
    with Runtime(watched, health=OFTEN, models=settings) as runtime:
        model = runtime.model("m")
        futures = [model.submit({"x": row}) for row in rows(8)]
        for number, future in enumerate(futures):
            assert model.watch is not None
            model.watch.remember(f"{number}", {"x": rows(1)[0]}, future.result(), model.variant)
            runtime.label("m", f"{number}", 0)
        assert runtime.health()[0].accuracy.count == 8
