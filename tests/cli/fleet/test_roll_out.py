from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from simulated_fleet import FORMER, SimulatedFleet, good, progress, result, roll_out

from edge.cli._main import EXIT_DONE, EXIT_GATE, EXIT_UNAVAILABLE, EXIT_USAGE, main

Fleet = Callable[..., SimulatedFleet]


def test_roll_out_reaches_all_devices_in_chunks(
    url: str, bundle: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet(good(6)) as devices:
        code = main(roll_out(url, bundle, "--at-once", "2", "--json"))
    assert code == EXIT_DONE
    told = result(capsys)
    assert set(progress(told).values()) == {"done"}
    assert [len(wave) for wave in told["waves"]] == [1, 2, 3]
    assert {version for version, _ in devices.served.values()} == {"1"}
    assert set(devices.runs.values()) == {1}
    assert devices.most_at_once <= 2


def test_roll_out_by_url_sends_no_chunks(url: str, bundle: Path, fleet: Fleet) -> None:
    with fleet(good(2)) as devices:
        assert main(roll_out(url, bundle, "--url", "https://host/2.edge")) == EXIT_DONE
    assert not devices.chunks
    assert {version for version, _ in devices.served.values()} == {"1"}


def test_dry_run_prints_the_plan_and_does_nothing(
    url: str, bundle: Path, fleet: Fleet, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet(good(12)) as devices:
        assert main(roll_out(url, bundle, "--dry-run", "--canary", "press-7")) == EXIT_DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("digits 1 for 12 of fleet plant")
    assert lines[3].split()[:3] == ["1", "1", "press-7"]
    assert all(len(line) <= 80 for line in lines)
    assert not devices.runs
    assert not state.exists()


@pytest.mark.parametrize("fate", ["refuses", "errors", "reverts", "slow"])
def test_bad_canary_stops_the_roll_out_and_goes_back(
    url: str, bundle: Path, fleet: Fleet, fate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet({"a": fate, "b": "good"}) as devices:
        code = main(roll_out(url, bundle, "--soak", "5m", "--roll-back", "--json"))
        assert code == EXIT_GATE
        assert devices.served == {"a": FORMER, "b": FORMER}
    told = result(capsys)
    assert told["phase"] == "returning"
    assert progress(told) == {
        "a": "returned" if fate in ("errors", "slow") else "failed",
        "b": "waiting",
    }
    assert {device for device, _, _ in devices.runs} == {"a"}


def test_what_is_tolerated_stops_nothing(url: str, bundle: Path, fleet: Fleet) -> None:
    with fleet({"a": "slow", "b": "good"}):
        assert main(roll_out(url, bundle, "--soak", "0.6s", "--tolerate", "latency")) == EXIT_DONE


def test_devices_that_can_not_or_may_not_are_told_and_do_not_count(
    url: str, bundle: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet({"a": "good", "b": "unfit", "c": "good"}):
        assert main(roll_out(url, bundle)) == EXIT_GATE
    told = capsys.readouterr()
    assert told.out.splitlines()[-2:] == ["2 done, 1 skipped", "  b  skipped: it unfit"]
    assert "the same command with --retry tries them again" in told.err


def test_device_that_answers_nonsense_fails_when_its_time_is_up(
    url: str, bundle: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet({"a": "good", "b": "nonsense"}):
        assert main(roll_out(url, bundle, "--timeout", "5s", "--json")) == EXIT_GATE
    assert progress(result(capsys)) == {"a": "done", "b": "failed"}


def test_stopped_roll_out_goes_on_with_retry(
    url: str, bundle: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet({"a": "refuses", "b": "good"}) as devices:
        assert main(roll_out(url, bundle)) == EXIT_GATE
        assert main(roll_out(url, bundle)) == EXIT_GATE
        assert sum(devices.runs.values()) == 1
        devices.fates["a"] = "good"
        capsys.readouterr()
        assert main(roll_out(url, bundle, "--retry", "--json")) == EXIT_DONE
    assert progress(result(capsys)) == {"a": "done", "b": "done"}


def test_devices_without_the_model_take_it_only_when_that_is_said(
    url: str, bundle: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet(good(1), "letters") as devices:
        assert main(roll_out(url, bundle)) == EXIT_USAGE
        assert "--install" in capsys.readouterr().err
        assert not devices.runs


def test_unsigned_and_damaged_bundles_are_refused(
    url: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unsigned = [one for one in roll_out(url, bundle) if one != "--unsigned"]
    assert main(unsigned) == EXIT_USAGE
    assert "edge sign" in capsys.readouterr().err
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(data)
    assert main(roll_out(url, bundle)) == EXIT_USAGE
    assert str(bundle) in capsys.readouterr().err


def test_fleet_without_devices_rolls_nothing_out(
    url: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(roll_out(url, bundle)) == EXIT_UNAVAILABLE
    assert "no device of fleet 'plant'" in capsys.readouterr().err


def test_damaged_state_is_an_error_with_a_way_out(
    url: str, bundle: Path, fleet: Fleet, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet(good(1)):
        assert main(roll_out(url, bundle, "--soak", "0")) == EXIT_DONE
        (path,) = state.glob("*.json")
        path.write_bytes(path.read_bytes()[:-20])
        assert main(roll_out(url, bundle)) == EXIT_USAGE
        assert "--restart" in capsys.readouterr().err
        assert main(roll_out(url, bundle, "--restart", "--json")) == EXIT_DONE
    assert progress(result(capsys)) == {"press-0": "present"}
