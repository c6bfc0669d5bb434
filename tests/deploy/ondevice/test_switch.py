"""The switch between releases, by itself: each change to the disk may be the last one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.deploy.ondevice import service, switch
from edge.deploy.ondevice.layout import Layout
from edge.deploy.ondevice.refusal import RefusedError

NAMES = ("replace", "symlink", "unlink", "fsync", "rmdir")


class PowerCutError(BaseException):
    """Nothing catches it, as nothing catches the real one."""


def make_layout(folder: Path) -> Layout:
    """Two releases that are whole; the first one serves."""
    layout = Layout(str(folder))
    for digest, version in (("a" * 64, "1"), ("b" * 64, "2")):
        folder = Path(layout.release(digest))
        folder.mkdir(parents=True)
        runtime = Path(layout.runtime("r" * 64))
        runtime.mkdir(parents=True, exist_ok=True)
        (runtime / "runtime.json").write_text("{}")
        (folder / "runtime").symlink_to("../../runtimes/" + "r" * 64)
        model = {"name": "m", "version": version, "digest": digest, "sha256": digest}
        document = {
            "digest": digest,
            "models": [model],
            "runtime": {"digest": "r" * 64, "wheels": []},
            "settings": {"sha256": "s" * 64},
            "http": "127.0.0.1:8000",
        }
        (folder / "release.json").write_text(json.dumps(document))
    os.symlink("releases/" + "a" * 64, layout.current)
    return layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_layout(tmp_path)


class Machine:
    """Serves what ``current`` names; ``bad`` are releases whose models fail."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.bad: set[str] = set()
        self.broker = ""
        self.asked: list[str] = []

    def systemctl(self, *arguments: str) -> str:
        self.asked.append(" ".join(arguments))
        return ""

    def show(self) -> dict[str, str]:
        return {"ActiveState": "active", "NRestarts": "0", "Result": "success"}

    def readiness(self, url: str) -> dict[str, Any]:
        digest = switch.current(self.layout)
        state = "failed" if digest in self.bad else "ready"
        model = {"digest": digest, "state": state, "reason": "off by 1", "is_active": True}
        answer: dict[str, Any] = {"models": [model]}
        return {**answer, "mqtt": {"state": self.broker}} if self.broker else answer


@pytest.fixture
def machine(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(layout)
    for name in ("systemctl", "show", "readiness"):
        monkeypatch.setattr(service, name, getattr(machine, name))
    return machine


def cut_at(patch: pytest.MonkeyPatch, number: int, *, is_after: bool) -> None:
    """The power goes before, or after, the nth change to the disk."""
    count = 0

    def wrapped(inner: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == number and not is_after:
                raise PowerCutError
            try:
                return inner(*arguments, **named)
            finally:
                if count == number:
                    raise PowerCutError

        return act

    for name in NAMES:
        patch.setattr(os, name, wrapped(getattr(os, name)))


def go(layout: Layout, digest: str = "b" * 64, *, is_live: bool = True) -> dict[str, Any]:
    return switch.switch(layout, digest, is_live=is_live, timeout_s=0.0, say=lambda _: None)


def test_a_healthy_release_is_confirmed(layout: Layout, machine: Machine) -> None:
    assert go(layout)["state"] == "confirmed"
    assert switch.current(layout) == "b" * 64
    assert switch.previous(layout) == "a" * 64
    assert not os.path.exists(layout.pending)
    assert machine.asked == []  # nothing was restarted


def test_a_release_that_is_not_well_is_left(layout: Layout, machine: Machine) -> None:
    machine.bad.add("b" * 64)
    answer = go(layout)
    assert (answer["state"], answer["reason"], answer["back"]) == (
        "rolled-back",
        "m 2 failed: off by 1",
        "",
    )
    assert switch.current(layout) == "a" * 64
    assert not os.path.exists(layout.pending)


def test_a_broker_that_was_away_before_is_only_noted(layout: Layout, machine: Machine) -> None:
    machine.broker = "unreachable"
    answer = go(layout)
    assert answer["state"] == "confirmed"
    assert answer["notes"] == ["the broker is unreachable: no answer"]


def test_a_release_that_is_not_whole_changes_nothing(layout: Layout, machine: Machine) -> None:
    os.unlink(os.path.join(layout.runtime("r" * 64), "runtime.json"))
    with pytest.raises(RefusedError, match="not whole"):
        go(layout)
    assert switch.current(layout) == "a" * 64


def test_half_a_marker_is_forgotten(layout: Layout, machine: Machine) -> None:
    Path(layout.pending).write_text('{"release": "bb')
    assert switch.take_back(layout) == ""
    assert switch.current(layout) == "a" * 64
    assert not os.path.exists(layout.pending)


def test_a_first_release_that_nobody_confirmed_stays(layout: Layout, machine: Machine) -> None:
    Path(layout.pending).write_text(json.dumps({"release": "a" * 64, "previous": ""}))
    assert "not confirmed" in switch.take_back(layout)
    assert switch.current(layout) == "a" * 64
    assert not os.path.exists(layout.pending)


@pytest.mark.parametrize("is_live", [True, False])
@pytest.mark.parametrize("is_bad", [True, False])
@pytest.mark.parametrize("is_after", [True, False])
def test_a_cut_at_any_change_leaves_a_release_that_serves(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_live: bool,
    is_bad: bool,
    is_after: bool,
) -> None:
    cuts = 0
    for number in range(1, 100):
        with monkeypatch.context() as patch:
            layout = make_layout(tmp_path / str(number))
            machine = Machine(layout)
            machine.bad |= {"b" * 64} if is_bad else set()
            for name in ("systemctl", "show", "readiness"):
                patch.setattr(service, name, getattr(machine, name))
            cut_at(patch, number, is_after=is_after)
            try:
                go(layout, is_live=is_live)
                break
            except PowerCutError:
                pass
        cuts += 1
        # The boot: what starts first takes back what was not confirmed.
        switch.take_back(layout)
        serving = switch.current(layout)
        assert serving == "a" * 64 or (serving == "b" * 64 and not is_bad), number
        assert os.path.exists(os.path.join(layout.current, "runtime", "runtime.json"))
        assert not os.path.exists(layout.pending)
    assert cuts > 8
