"""What is desired of a device comes about, by rev, and what is reported of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from patience import LONG_S

from edge.core.errors import EngineError
from edge.host import Runtime
from edge.telemetry.commands import desired as documents
from edge.telemetry.commands.order import RefusedError


def _desire(operator: Any, **document: Any) -> None:
    operator.send("desired", msgspec.json.encode(document))


def _reported(operator: Any, rev: int, state: str, **fields: Any) -> dict[str, Any]:
    def wanted(received: Any) -> Any:
        if not received.topic.endswith("/one/reported"):
            return None
        said = msgspec.json.decode(received.payload)
        is_it = (said["rev"], said["state"]) == (rev, state) and fields.items() <= said.items()
        return said if is_it else None

    found: dict[str, Any] = operator.until(wanted, f"reported rev {rev} {state} {fields}")
    return found


def _to_version(version: str, **more: Any) -> dict[str, Any]:
    return {"digits": {"version": version, **more}}


def test_version_that_is_desired_becomes_active(
    start: Any, operator: Any, runtime: Runtime
) -> None:
    runtime.load_all()
    start(desired=True)
    assert _reported(operator, 0, "converged")["models"]["digits"]["version"] == "2"
    _desire(operator, rev=1, models=_to_version("1"), x_why="a test")
    said = _reported(operator, 1, "converged")
    assert said["models"]["digits"] == {"version": "1", "state": "ready", "loaded": True}
    assert operator.event(name="desired")["status"] == "successful"


def test_load_state_and_power_are_part_of_it(start: Any, operator: Any, runtime: Runtime) -> None:
    runtime.load_all()
    start(desired=True)
    _desire(operator, rev=1, models=_to_version("2", loaded=False), power={"budget_watts": 6.0})
    said = _reported(operator, 1, "converged")
    assert said["models"]["digits"]["loaded"] is False
    assert said["power"]["budget_watts"] == 6.0
    _desire(operator, rev=2, models=_to_version("2", loaded=True))
    assert _reported(operator, 2, "converged")["models"]["digits"]["loaded"] is True


def test_version_that_is_not_here_yet_is_waited_for(
    start: Any, operator: Any, runtime: Runtime
) -> None:
    start(desired=True)
    _desire(operator, rev=1, models=_to_version("3"))
    said = _reported(operator, 1, "converging")
    assert "3 is not on this device yet" in said["reason"]
    assert runtime.status_of("digits").version == "2"


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"rev": 4, "models": {}}, "older"),
        ({"rev": 5, "models": _to_version("2")}, "was another one"),
        ({"rev": "6", "models": {}}, "can not be read"),
        ({"rev": 0}, "can not be read"),
        ({"rev": 6, "modles": {}}, "can not be read"),
        ({"rev": 6, "power": {"policy": "off"}}, "can not be read"),
        ({"rev": 6, "x_": "a" * 40_000}, "more than"),
        ([6], "can not be read"),
    ],
)
def test_bad_or_older_document_changes_nothing(
    start: Any, operator: Any, runtime: Runtime, document: Any, why: str
) -> None:
    start(desired=True)
    _desire(operator, rev=5, models=_to_version("1"))
    _reported(operator, 5, "converged")
    operator.send("desired", msgspec.json.encode(document))
    said = operator.until(
        lambda r: "refused" in (s := _said(r)) and s, f"a refusal because of {why}"
    )
    assert (said["rev"], said["state"], why in said["refused"]) == (5, "converged", True)
    assert runtime.status_of("digits").version == "1"


def _said(received: Any) -> dict[str, Any]:
    if not received.topic.endswith("/one/reported"):
        return {}
    said: dict[str, Any] = msgspec.json.decode(received.payload)
    return said


def test_what_was_desired_survives_a_restart(start: Any, operator: Any, runtime: Runtime) -> None:
    """The runtime itself begins with the newest version."""
    publisher = start(desired=True)
    _desire(operator, rev=3, models=_to_version("1"))
    _reported(operator, 3, "converged")
    publisher.close(LONG_S)
    operator.send("desired", b"")  # while it was away: it can't know
    runtime.activate("digits", "2")
    start(desired=True)
    _reported(operator, 3, "converged")
    assert runtime.status_of("digits").version == "1"


def test_what_changes_later_is_told_and_not_fought(
    start: Any, operator: Any, runtime: Runtime
) -> None:
    start(desired=True)
    _desire(operator, rev=1, models=_to_version("2"))
    _reported(operator, 1, "converged")
    runtime.roll_back("digits", "3 of 10 requests failed")
    said = _reported(operator, 1, "failed")
    assert "3 of 10 requests failed" in said["reason"]
    assert runtime.status_of("digits").version == "1"
    _desire(operator, rev=2, models=_to_version("2"))
    _reported(operator, 2, "converged")
    assert runtime.status_of("digits").version == "2"


def test_version_that_was_taken_back_stays_so_after_a_restart(
    start: Any, operator: Any, runtime: Runtime
) -> None:
    publisher = start(desired=True)
    _desire(operator, rev=1, models=_to_version("2"))
    _reported(operator, 1, "converged")
    runtime.roll_back("digits", "it squints")
    publisher.close(LONG_S)
    start(desired=True)
    assert "it squints" in _reported(operator, 1, "failed")["reason"]
    assert runtime.status_of("digits").version == "1"


def test_version_that_does_not_load_is_failed_and_tried_once(
    start: Any, operator: Any, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def activate(name: str, version: str) -> None:
        calls.append(version)
        raise EngineError("out of memory")

    monkeypatch.setattr(runtime, "activate", activate)
    start(desired=True)
    _desire(operator, rev=1, models=_to_version("1"))
    assert _reported(operator, 1, "failed")["reason"] == "out of memory"
    assert operator.event(name="desired")["status"] == "failed"
    _desire(operator, rev=1, models=_to_version("1"))
    _desire(operator, rev=1, models={})
    _reported(operator, 1, "failed", reason="out of memory")
    assert calls == ["1"]


def test_right_version_that_fails_is_no_success(
    start: Any, operator: Any, runtime: Runtime
) -> None:
    runtime._catalog.find("digits", "2").reject("the engine is gone")
    start(desired=True)
    _desire(operator, rev=1, models=_to_version("2"))
    assert "the engine is gone" in _reported(operator, 1, "failed")["reason"]


def test_document_that_is_cleared_is_forgotten(start: Any, operator: Any, runtime: Runtime) -> None:
    start(desired=True)
    _desire(operator, rev=7, models=_to_version("1"))
    _reported(operator, 7, "converged")
    operator.send("desired", b"")
    _reported(operator, 0, "converged")
    _desire(operator, rev=1, models=_to_version("2"))
    _reported(operator, 1, "converged")


def test_nothing_is_desired_where_the_right_is_off(
    start: Any, operator: Any, runtime: Runtime
) -> None:
    start(load=True)
    _desire(operator, rev=1, models=_to_version("1"))
    operator.order("load/a", model="digits")
    operator.answer("load/a")
    assert runtime.status_of("digits").version == "2"
    assert not any(received.topic.endswith("/reported") for received in operator.seen)


def test_damaged_file_of_what_was_desired_is_as_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = documents.Store(tmp_path)
    store.accept(documents.read(b'{"rev": 3}', 100))
    (tmp_path / "desired.json").write_bytes(b'{"desired": {"rev": "3"')
    again = documents.Store(tmp_path)
    again.open()
    assert again.kept is None
    assert "can not be read" in caplog.text
    assert again.accept(documents.read(b'{"rev": 1}', 100))


def test_folder_that_can_not_be_written_costs_the_memory_of_it_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "gone"
    store = documents.Store(folder)
    folder.write_text("a file is here")
    assert store.accept(documents.read(b'{"rev": 3}', 100))
    assert "a restart will not know" in caplog.text
    with pytest.raises(RefusedError):
        store.accept(documents.read(b'{"rev": 2}', 100))
