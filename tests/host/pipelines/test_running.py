"""Who runs when, and what becomes of failures: on models whose answers the tests give."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec
import numpy as np
import pytest
from patience import LONG_S

from edge.core.errors import EngineError, UnavailableError
from edge.core.manifest import Manifest
from edge.host.batching import BatchPlan
from edge.host.pipelines import Pipeline, make_pipelines
from edge.vision import decode

Feeds = dict[str, np.ndarray]


class Puppet:
    """A model that answers when it is told to, or at once by ``answers``."""

    def __init__(self, manifest: Manifest) -> None:
        (variant,) = manifest.variants
        self.name, self.version, self.manifest = manifest.name, "1", manifest
        self.digest = str(hash(str(manifest)))
        self.inputs, self.outputs = variant.inputs, variant.outputs
        self.batches = BatchPlan()
        self.is_held_back = False
        self.is_held_back = False
        self.answers: Callable[[Feeds], Feeds] | None = None
        self.asked: list[tuple[Feeds, Future[Feeds]]] = []
        self.terms: list[dict[str, int]] = []
        self.changed = threading.Condition()

    def submit(self, feeds: Feeds, **terms: int) -> Future[Feeds]:
        future: Future[Feeds] = Future()
        with self.changed:
            self.asked.append((feeds, future))
            self.terms.append(terms)
            self.changed.notify_all()
        if self.answers is not None:
            try:
                future.set_result(self.answers(feeds))
            except Exception as error:
                future.set_exception(error)
        return future

    def infer(self, feeds: Feeds) -> Feeds:
        return self.submit(feeds).result(LONG_S)

    def wait(self, count: int = 1) -> list[tuple[Feeds, Future[Feeds]]]:
        """The requests, once there are as many."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= count, LONG_S)
        return self.asked

    def decode(self, outputs: Feeds, geometry: Any, *, top: int | None) -> Any:
        return decode(outputs, self.manifest.output, geometry=geometry)


class Stage:
    """Puppets by name, and a pipeline of them."""

    def __init__(self, manifests: dict[str, Manifest | None], spec: Any) -> None:
        self.models = {name: Puppet(one) for name, one in manifests.items() if one is not None}
        self.pipeline: Pipeline = make_pipelines({"line": spec}, manifests, {}, self.find)["line"]

    def find(self, name: str) -> Any:
        return self.models[name]


@pytest.fixture
def stage(
    manifests: dict[str, Manifest | None], declared: Callable[[str], Any]
) -> Callable[[str], Stage]:
    pytest.importorskip("cv2")
    return lambda text: Stage(manifests, declared(text))


THINGS = '[steps.things]\nmodel = "finder"\n'
NAMES = '[steps.names]\nmodel = "namer"\ncrop = "things"\n'
PICTURE = np.zeros((80, 80, 3), np.uint8)


def boxes(count: int) -> Feeds:
    """As many boxes, one beside the other, in pixels of the tensor."""
    found = [(x % 8, x // 8, x % 8 + 1, x // 8 + 1, 0.9, 0) for x in range(count)]
    return {"y": np.array(found, np.float32).reshape(1, -1, 6)}


def means(feeds: Feeds) -> Feeds:
    return {"y": feeds["x"].mean(axis=(2, 3))}


def test_independent_steps_run_at_the_same_time(stage: Callable[[str], Stage]) -> None:
    text = '[steps.one]\nmodel = "namer"\n[steps.other]\nmodel = "namer-alone"\n'
    played = stage(text)
    future = played.pipeline.submit(PICTURE, priority=3, timeout_us=600_000_000)
    asked = [played.models[name].wait()[0] for name in ("namer", "namer-alone")]
    assert not future.done()
    for feeds, waiting in reversed(asked):
        waiting.set_result(means(feeds))
    assert set(future.result(LONG_S)) == {"one", "other"}
    assert played.models["namer"].terms == [{"priority": 3, "timeout_us": 600_000_000}]


def test_a_lone_model_runs_on_the_callers_thread(stage: Callable[[str], Stage]) -> None:
    threads: list[threading.Thread] = []

    def answer(feeds: Feeds) -> Feeds:
        threads.append(threading.current_thread())
        return boxes(1)

    played = stage(THINGS)
    played.models["finder"].answers = answer
    played.pipeline.run(PICTURE)
    assert threads == [threading.current_thread()]
    assert played.models["finder"].terms == [{}]
    played.pipeline.submit(PICTURE).result(LONG_S)
    played.models["finder"].is_held_back = True
    played.pipeline.run(PICTURE)
    assert played.models["finder"].terms[1:] == [{"priority": 0, "timeout_us": 0}] * 2


def test_crops_of_one_picture_fill_batches_of_eight(stage: Callable[[str], Stage]) -> None:
    played = stage(THINGS + NAMES)
    played.models["finder"].answers = lambda feeds: boxes(19)
    played.models["namer"].answers = means
    picture = PICTURE.copy()
    picture[:10, 10:20] = (0, 255, 0)  # under the second box
    answer = played.pipeline.run(picture)["things"]
    shapes = [feeds["x"].shape for feeds, _ in played.models["namer"].asked]
    assert shapes == [(8, 3, 8, 8), (8, 3, 8, 8), (3, 3, 8, 8)]
    shown = [box["names"][0]["index"] for box in answer]
    assert [number for number, index in enumerate(shown) if index == 1] == [1]


def test_answers_keep_the_order_of_boxes_whoever_ends_first(stage: Callable[[str], Stage]) -> None:
    played = stage(THINGS + NAMES)
    played.models["finder"].answers = lambda feeds: boxes(20)
    picture = np.zeros((80, 80, 3), np.uint8)
    picture[:10, :, 2] = 255  # the first eight boxes are red
    future = played.pipeline.submit(picture)
    for feeds, waiting in reversed(played.models["namer"].wait(3)):
        waiting.set_result(means(feeds))
    shown = [box["names"][0]["name"] for box in future.result(LONG_S)["things"]]
    assert shown == ["2"] * 8 + ["0"] * 12


def test_memory_is_used_again_but_not_before_its_batch_ended(
    stage: Callable[[str], Stage],
) -> None:
    played = stage('[steps.names]\nmodel = "namer"\n')
    namer = played.models["namer"]
    first, second = (played.pipeline.submit(PICTURE) for _ in range(2))
    (one, _), (other, _) = namer.wait(2)
    assert not np.shares_memory(one["x"], other["x"])
    for feeds, waiting in namer.asked:
        waiting.set_result(means(feeds))
    assert first.result(LONG_S) == second.result(LONG_S)
    namer.answers = means
    played.pipeline.run(PICTURE)
    again = namer.asked[-1][0]["x"]
    assert any(np.shares_memory(again, before["x"]) for before in (one, other))


def test_a_batch_that_is_too_large_runs_as_two(stage: Callable[[str], Stage]) -> None:
    def small_only(feeds: Feeds) -> Feeds:
        if len(feeds["x"]) > 3:
            raise EngineError("out of memory")
        return means(feeds)

    played = stage(THINGS + NAMES)
    played.models["finder"].answers = lambda feeds: boxes(8)
    played.models["namer"].answers = small_only
    assert all(box["names"] for box in played.pipeline.run(PICTURE)["things"])
    sizes = [len(feeds["x"]) for feeds, _ in played.models["namer"].asked]
    assert sizes == [8, 4, 4, 2, 2, 2, 2]
    played.pipeline.run(PICTURE)
    assert [len(feeds["x"]) for feeds, _ in played.models["namer"].asked[7:]] == [2, 2, 2, 2]


def test_a_failure_names_the_step_and_lets_the_others_go(stage: Callable[[str], Stage]) -> None:
    def fail(feeds: Feeds) -> Feeds:
        raise EngineError("the engine is on fire", hint="water")

    text = '[steps.slow]\nmodel = "namer-alone"\n' + THINGS + NAMES
    played = stage(text)
    played.models["finder"].answers = lambda feeds: boxes(3)
    played.models["namer"].answers = fail
    with pytest.raises(EngineError, match="pipeline line, step names: the engine is") as raised:
        played.pipeline.run(PICTURE)
    assert raised.value.hint == "water"
    assert isinstance(raised.value.__cause__, EngineError)
    ((_, waiting),) = played.models["namer-alone"].asked
    assert waiting.cancelled()
    status = played.pipeline.status([])
    failures = {name: step.statistics.failure_count for name, step in status.steps.items()}
    assert failures == {"slow": 0, "things": 0, "names": 1}
    assert status.statistics.failure_count == 1


def test_a_full_queue_is_not_answered_with_smaller_batches(stage: Callable[[str], Stage]) -> None:
    def refuse(feeds: Feeds) -> Feeds:
        raise UnavailableError("too many wait")

    played = stage(THINGS + NAMES)
    played.models["finder"].answers = lambda feeds: boxes(4)
    played.models["namer"].answers = refuse
    with pytest.raises(UnavailableError, match="step names: too many wait"):
        played.pipeline.run(PICTURE)
    assert len(played.models["namer"].asked) == 1


def test_an_output_with_too_few_rows_fails(stage: Callable[[str], Stage]) -> None:
    played = stage(THINGS + NAMES)
    played.models["finder"].answers = lambda feeds: boxes(4)
    played.models["namer"].answers = lambda feeds: {"y": means(feeds)["y"][:3]}
    with pytest.raises(EngineError, match=r"step names: output 'y' of 4 pictures has \(3, 3\)"):
        played.pipeline.run(PICTURE)


def test_what_needs_a_step_that_was_left_out_is_left_out_too(
    stage: Callable[[str], Stage],
) -> None:
    text = f"""{THINGS}
    [steps.scene]
    model = "namer"
    when = "things.count > 0"
    [steps.sum]
    model = "adder"
    inputs = {{ a = "scene.y", b = "input.b" }}
    """
    played = stage(text)
    played.models["finder"].answers = lambda feeds: boxes(0)
    answer = played.pipeline.run({"picture": PICTURE, "b": np.zeros((1, 3), np.float32)})
    assert answer == {"things": [], "scene": None, "sum.y": None}
    assert not played.models["adder"].asked


def test_tensors_are_handed_on_and_not_copied(stage: Callable[[str], Stage]) -> None:
    text = '[steps.scene]\nmodel = "namer"\n[steps.sum]\nmodel = "adder"\n'
    played = stage(text + 'inputs = { a = "scene.y", b = "input.b" }')
    made = np.ones((1, 3), np.float32)
    played.models["namer"].answers = lambda feeds: {"y": made}
    played.models["adder"].answers = lambda feeds: {"y": feeds["a"] + feeds["b"]}
    given = np.ones((1, 3), np.float32)
    played.pipeline.run({"picture": PICTURE, "b": given})
    ((feeds, _),) = played.models["adder"].asked
    assert feeds["a"] is made
    assert feeds["b"] is given


def test_a_new_version_of_a_model_is_fed_as_it_says(stage: Callable[[str], Stage]) -> None:
    def replace(**changes: Any) -> Puppet:
        """Another version of the model, with the same tensors."""
        manifest = played.models["namer"].manifest
        played.models["namer"] = Puppet(msgspec.structs.replace(manifest, **changes))
        played.models["namer"].answers = means
        return played.models["namer"]

    played = stage('[steps.names]\nmodel = "namer"\n')
    first = replace()
    bright = PICTURE + np.uint8(255)
    played.pipeline.run(bright)
    assert first.asked[0][0]["x"].max() == 1
    assert first.manifest.image is not None
    second = replace(image=msgspec.structs.replace(first.manifest.image, scale=1.0))
    played.pipeline.run(bright)
    assert second.asked[0][0]["x"].max() == 255
    replace(image=None)
    with pytest.raises(UnavailableError, match="step names: namer 1 does not take pictures"):
        played.pipeline.run(PICTURE)
    replace(task="detection")
    with pytest.raises(UnavailableError, match="namer 1 does detection, and did classification"):
        played.pipeline.run(PICTURE)
