from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from free_ports import free_port
from simulated_fleet import SimulatedFleet, good, result

from edge.cli._main import (
    EXIT_DONE,
    EXIT_GATE,
    EXIT_INTERRUPTED,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    main,
)
from edge.settings import Mqtt
from edge.telemetry.address import brokers_of
from edge.telemetry.fleet.operator import COMMANDS, Operator
from edge.telemetry.watcher import Watcher

BRIEFLY = ("--seconds", "1")
Fleet = Callable[..., SimulatedFleet]


def test_fleet_prints_a_line_for_each_device(
    url: str, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet(good(3)):
        assert main(["fleet", "--mqtt", url, *BRIEFLY]) == EXIT_DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "edge fleet  3 devices: 3 online"
    assert [line.split()[:5] for line in lines[2:5]] == [
        ["●", f"press-{n}", "9.9", "digits", "0"] for n in range(3)
    ]
    assert lines[-1].split() == ["digits", "0", "on", "3"]


def test_fleet_as_json_has_devices_and_versions(
    url: str, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet(good(2)):
        arguments = ["--mqtt", url, "--json", "list", *BRIEFLY, "--select", "*-1"]
        assert main(["fleet", *arguments]) == EXIT_DONE
    told = result(capsys)
    (device,) = told["devices"]
    assert (device["device"], device["state"], device["models"][0]["version"]) == (
        "press-1",
        "online",
        "0",
    )
    assert told["versions"][0]["devices"] == 1


def test_fleet_without_devices_is_exit_3(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "--mqtt", url, "--seconds", "0.1"]) == EXIT_UNAVAILABLE
    assert "no device was heard" in capsys.readouterr().err


@pytest.mark.parametrize("action", [[], ["send", "load", "--all"], ["roll-out"]])
def test_absent_broker_is_exit_3(
    action: list[str], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [str(bundle), "--unsigned"] if action == ["roll-out"] else []
    arguments = [*action, *more, "--mqtt", f"mqtt://127.0.0.1:{free_port()}"]
    assert main(["fleet", *arguments]) == EXIT_UNAVAILABLE
    assert "no MQTT broker" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--mqtt", "mqtt://h", "send", "load"],
        ["--mqtt", "mqtt://h", "desired", "--all"],
        ["--mqtt", "mqtt://h", "desired", "digits=1"],
        ["--mqtt", "mqtt://h", "desired", "--all", "digits"],
        ["--mqtt", "mqtt://h", "send", "load", "--all", "digits"],
        ["--mqtt", "mqtt://h", "send", "load", "--all", "--id", "a b"],
        ["--mqtt", "mqtt://h", "roll-out", "absent.edge"],
        ["--mqtt", "mqtt://h", "roll-out", "x.edge", "--waves", "50%,10%"],
        ["--mqtt", "mqtt://h", "roll-out", "x.edge", "--max-errors", "2"],
        ["--mqtt", "mqtt://h", "roll-out", "x.edge", "--soak", "5d"],
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    assert main(["fleet", *arguments]) == EXIT_USAGE


def test_command_is_followed_to_its_end_and_its_topic_cleared(
    url: str, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["send", "load", "model=digits", "--select", "press-*", "--fleet", "plant", *BRIEFLY]
    with fleet(good(2) | {"other": "good"}) as devices:
        assert main(["fleet", *command, "--mqtt", url, "--id", "again", "--json"]) == EXIT_DONE
        ends = result(capsys)["devices"]
        assert {device: end["status"] for device, end in ends.items()} == {
            "press-0": "successful",
            "press-1": "successful",
        }
        # The devices know it by its id: nothing is run again.
        assert main(["fleet", *command, "--mqtt", url, "--id", "again"]) == EXIT_DONE
        assert capsys.readouterr().out.splitlines() == ["✓ press-0  done", "✓ press-1  done"]
    assert set(devices.runs.values()) == {1}


def test_command_without_an_answer_is_taken_back_and_exit_3(
    url: str, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet({"mute": "deaf"}):
        command = ["send", "load", "model=digits", "--device", "mute", "--timeout", "0.5", *BRIEFLY]
        code = main(["fleet", *command, "--mqtt", url, "--fleet", "plant"])
    assert code == EXIT_UNAVAILABLE
    told = capsys.readouterr()
    assert told.out == "✗ mute  no answer after 0.5 s\n"
    assert "[commands]" in told.err


def test_device_that_nobody_has_seen_is_said_to_be_so(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["send", "load", "--device", "misspelt", "--timeout", "0.5", *BRIEFLY]
    assert main(["fleet", *command, "--mqtt", url, "--fleet", "plant"]) == EXIT_UNAVAILABLE
    told = capsys.readouterr()
    assert told.out == "✗ misspelt  never seen, no answer after 0.5 s\n"
    assert "edge fleet shows which devices there are" in told.err


def test_command_of_an_operator_who_is_killed_expires_by_itself(
    url: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Operator, "clear", lambda *_: None)  # what is killed clears nothing
    command = ["send", "load", "--device", "mute", "--timeout", "0.5", "--id", "left", *BRIEFLY]
    began_ms = time.time() * 1000
    with fleet({"mute": "deaf"}):
        main(["fleet", *command, "--mqtt", url, "--fleet", "plant"])
    with Watcher(brokers_of(Mqtt(url=url)), "plant", "+", COMMANDS) as watcher:
        operator = Operator(watcher)
        while not operator.is_settled:
            operator.poll(0.1)
        left = operator.answers("plant", "mute")["left"]
    assert left["status"] == "init"
    assert began_ms < left["expires"] < (time.time() + 120) * 1000


def test_interrupted_before_devices_are_listed_is_not_done(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Operator, "watch", interrupt)
    assert main(["fleet", "--mqtt", url, "--json"]) == EXIT_INTERRUPTED
    assert main(["fleet", "--mqtt", url, "--follow"]) == EXIT_DONE  # its only way to end
    assert capsys.readouterr().out == ""


def test_interrupted_while_a_command_is_imported_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupt)
    assert main(["fleet"]) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_desired_versions_are_followed_until_devices_are_there(
    url: str, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    desired = ["fleet", "--mqtt", url, "--fleet", "plant", "desired", "--all", *BRIEFLY]
    with fleet(good(2)) as devices:
        assert main([*desired, "digits=1"]) == EXIT_DONE
        assert capsys.readouterr().out == "✓ press-0  converged\n✓ press-1  converged\n"
        assert {version for version, _ in devices.served.values()} == {"1"}
        assert main([*desired, "digits=7"]) == EXIT_GATE
        assert capsys.readouterr().out.splitlines()[0] == "✗ press-0  failed: no such"
        assert main(["fleet", "--mqtt", url, *BRIEFLY]) == EXIT_DONE
        assert "not as desired: no such" in capsys.readouterr().out
        assert main([*desired, "--clear"]) == EXIT_DONE


def test_device_that_is_offline_is_said_to_be_so(
    url: str, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["send", "load", "model=digits", "--device", "gone", "--timeout", "0.5", *BRIEFLY]
    with fleet({"gone": "away"}):
        assert main(["fleet", *command, "--mqtt", url, "--fleet", "plant"]) == EXIT_UNAVAILABLE
    told = capsys.readouterr()
    assert told.out == "✗ gone  offline, no answer after 0.5 s\n"
    assert "switched on" not in told.err


def test_desired_is_left_for_a_device_that_does_not_answer(
    url: str, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet({"mute": "deaf"}):
        desired = ["desired", "digits=1", "--device", "mute", "--timeout", "0.3s", *BRIEFLY]
        assert main(["fleet", "--mqtt", url, "--fleet", "plant", *desired]) == EXIT_GATE
    assert capsys.readouterr().out == "✗ mute  no end: no answer in 0.3 s\n"
