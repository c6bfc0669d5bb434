"""What each verb does to a runtime, and says of it."""

from __future__ import annotations

import base64
import io
from typing import Any

import msgspec
import numpy as np
import pytest

from edge.core.errors import EngineError
from edge.host import Runtime
from edge.settings import Commands
from edge.telemetry.commands.verbs import right_of, verbs

ROW = {"x": np.full((1, 3), 2, np.float32)}


def test_each_verb_has_its_right_and_each_right_its_verb() -> None:
    rights = {name for name, on in msgspec.structs.asdict(Commands()).items() if on is False}
    assert {right_of(name) for name in verbs()} | {"desired"} == rights


def test_all_rights_are_off_by_default() -> None:
    assert not Commands().is_any_verb_on
    assert not Commands().desired


@pytest.mark.parametrize("name", sorted(verbs()))
def test_verb_refuses_what_it_does_not_know(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"model": "m", "nonsense": 1}, verbs()[name].arguments)


def test_unload_then_load(start: Any, operator: Any, runtime: Runtime) -> None:
    runtime.load_all()
    start(load=True, unload=True)
    operator.order("unload/a", model="digits")
    assert operator.answer("unload/a")["status"] == "successful"
    assert runtime.status_of("digits").is_withdrawn
    operator.order("load/b", model="digits")
    assert operator.answer("load/b")["result"]["state"] == "ready"


def test_activate_and_roll_back(start: Any, operator: Any, runtime: Runtime) -> None:
    runtime.load_all()
    start(activate=True, roll_back=True)
    operator.order("activate/a", model="digits", version="1")
    assert operator.answer("activate/a")["result"] == {"version": "1", "former_version": "2"}
    assert runtime.status_of("digits").version == "1"
    operator.order("activate/b", model="digits", version="2")
    operator.answer("activate/b")
    operator.order("roll-back/c", model="digits")
    assert operator.answer("roll-back/c")["result"] == {"version": "1", "former_version": "2"}
    assert runtime.rejection("digits", "2") == "by command c"


def test_activate_of_a_version_that_is_not_here_changes_nothing(
    start: Any, operator: Any, runtime: Runtime
) -> None:
    start(activate=True)
    operator.order("activate/a", model="digits", version="3")
    answer = operator.answer("activate/a")
    assert (answer["status"], answer["kind"]) == ("failed", "not-found")
    assert answer["hint"] == "it has: 1, 2"
    assert runtime.status_of("digits").version == "2"


def test_batching(start: Any, operator: Any, runtime: Runtime) -> None:
    runtime.load_all()
    start(batching=True)
    operator.order("batching/a", model="digits", max_batch=4, max_delay_us=100)
    answer = operator.answer("batching/a")
    assert answer["result"] == {"max_batch": 4, "max_delay_us": 100, "max_rows": 4}
    assert runtime.model("digits").batches.max_rows == 4
    operator.order("batching/b", model="digits", max_batch=0)
    assert operator.answer("batching/b")["kind"] == "invalid"


def test_power(start: Any, operator: Any, runtime: Runtime) -> None:
    start(power=True)
    operator.order("power/a", policy="latency", budget_watts=7.5)
    told = {"policy": "latency", "budget_watts": 7.5, "max_celsius": 0.0}
    assert operator.answer("power/a")["result"] == told
    assert runtime.oversight.power
    assert runtime.oversight.power.budget_watts == 7.5
    operator.order("power/b", max_celsius=80.0)
    assert operator.answer("power/b")["result"] == {**told, "max_celsius": 80.0}
    for number, wrong in enumerate(({}, {"policy": "off"}, {"budget_watts": -1})):
        operator.order(f"power/c{number}", **wrong)
        assert operator.answer(f"power/c{number}")["kind"] == "invalid"


def test_goldens_on_the_engine_that_serves(
    start: Any, operator: Any, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.load_all()
    start(goldens=True)
    operator.order("goldens/a", model="digits")
    result = operator.answer("goldens/a")["result"]
    assert (result["version"], result["golden_count"]) == ("2", 1)
    session = runtime.model("digits").opened.session
    monkeypatch.setattr(session, "run", lambda feeds: {"y": np.ones((1, 4), np.float32)})
    operator.order("goldens/b", model="digits")
    answer = operator.answer("goldens/b")
    assert (answer["status"], answer["kind"]) == ("failed", "failed")
    assert "off" in answer["reason"]


def test_verb_that_fails_in_the_engine_says_how(
    start: Any, operator: Any, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise EngineError("it smokes", hint="open a window")

    monkeypatch.setattr(runtime, "load", fail)
    start(load=True)
    operator.order("load/a", model="digits")
    answer = operator.answer("load/a")
    assert (answer["reason"], answer["hint"]) == ("it smokes", "open a window")


def _snapshot(operator: Any, id_: str) -> dict[str, Any]:
    def wanted(received: Any) -> Any:
        is_it = received.topic.endswith(f"/snapshot/{id_}") and "/cmd/" not in received.topic
        return (msgspec.json.decode(received.payload), received) if is_it else None

    said, received = operator.until(wanted, "the snapshot")
    assert not received.is_retained
    metrics: dict[str, Any] = said["m"]
    return metrics


def test_snapshot_of_tensors_is_the_next_frame_with_its_result(
    start: Any, operator: Any, runtime: Runtime, eventually: Any
) -> None:
    model = runtime.model("digits")
    model.infer({"x": np.ones((1, 3), np.float32)})
    start(snapshot=True)
    operator.order("snapshot/a", model="digits")
    operator.answer("snapshot/a", "executing")
    eventually(lambda: model.seat._capture is not None, "somebody to look")
    model.infer(ROW)
    answer = operator.answer("snapshot/a")
    said = _snapshot(operator, "a")
    data = base64.b64decode(said["data_base64"])
    assert said["kind"] == answer["result"]["kind"] == "npz"
    np.testing.assert_array_equal(np.load(io.BytesIO(data))["x"], ROW["x"])
    assert said["outputs"]["y"]["values"] == [0.0] * 4


def test_snapshot_without_a_request_fails_in_time(start: Any, operator: Any) -> None:
    start(snapshot=True)
    operator.order("snapshot/a", model="digits", timeout_s=0.3)
    answer = operator.answer("snapshot/a")
    assert (answer["status"], answer["kind"]) == ("failed", "unavailable")


def test_snapshot_that_is_withdrawn_waits_no_more(start: Any, operator: Any) -> None:
    start(snapshot=True)
    operator.order("snapshot/a", model="digits", timeout_s=600)
    operator.answer("snapshot/a", "executing")
    operator.send("cmd/snapshot/a", b"")
    assert operator.event(id="a")["kind"] == "withdrawn"
