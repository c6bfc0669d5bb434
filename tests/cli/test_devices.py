from __future__ import annotations

import json

import pytest

from edge.cli._main import main
from edge.core import plugins
from edge.core.contracts import Availability

Capture = pytest.CaptureFixture[str]

ABSENT = Availability(ready=False, reason="libexample.so is missing", hint="pip install example")


class Absent:
    def availability(self) -> Availability:
        return ABSENT


@pytest.fixture
def one_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = plugins.backend
    monkeypatch.setattr(plugins, "stems", lambda package: ["absent", "null"])
    monkeypatch.setattr(plugins, "backend", lambda n: Absent() if n == "absent" else real(n))


def test_json_holds_every_engine_and_what_it_says_of_itself(capsys: Capture) -> None:
    assert main(["devices", "--json"]) == 0
    engines = {engine["name"]: engine for engine in json.loads(capsys.readouterr().out)}
    assert sorted(engines) == plugins.stems("runtimes")
    for name, engine in engines.items():
        found = plugins.backend(name).availability()
        assert (engine["ready"], engine["version"]) == (found.ready, found.version)
        assert engine["devices"] == list(found.devices)


@pytest.mark.usefixtures("one_absent")
def test_an_engine_that_is_absent_says_why_and_what_to_do(capsys: Capture) -> None:
    from edge.cli import devices

    devices._print([devices._facts(name) for name in ("absent", "null")])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.split() for line in text.splitlines()]
    assert ["○", "absent"] in lines
    assert ["●", "null", "1", "cpu"] in lines
    assert "libexample.so is missing" in text
    assert "pip install example" in text
