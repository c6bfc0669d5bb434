from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import LONG_S

from edge.cli import build
from edge.cli._main import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    main,
)
from edge.core.errors import EngineError

Pack = Callable[..., Path]


Build = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], forge: Any) -> Build:
    """`edge build --json`: its exit code, and the variants of the first bundle."""
    forge.go.set()

    def run(*arguments: object) -> tuple[int, list[dict[str, Any]]]:
        code = main(["build", *map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)["bundles"][0]["variants"]

    return run


def test_what_has_to_be_built_is_and_is_there_the_next_time(
    pack_variants: Pack, forge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    forge.go.set()
    path = pack_variants("forge-int8", "null-int8")
    assert main(["build", str(path)]) == EXIT_DONE
    first = capsys.readouterr().out
    assert "✓ forge-int8: built in 2.50 s, 1.50 MB" in first
    assert "engine" in first
    assert "null" not in first
    assert main(["build", str(path)]) == EXIT_DONE
    assert "✓ forge-int8: was there, 1.50 MB" in capsys.readouterr().out
    assert forge.sessions == []


def test_json_says_where_it_is_and_what_it_took(pack_variants: Pack, ask: Build) -> None:
    path = pack_variants("forge-int8")
    code, (variant,) = ask(path)
    assert code == EXIT_DONE
    assert Path(variant.pop("path")).name == "engine"
    assert variant == {
        "id": "forge-int8",
        "engine": "forge",
        "state": "built",
        "size_bytes": 1_500_000,
        "seconds": 2.5,
    }
    assert ask(path)[1][0]["state"] == "present"


def test_a_bundle_with_nothing_to_build_says_so(
    pack_variants: Pack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(pack_variants("null-int8"))]) == EXIT_DONE
    assert "nothing has to be built" in capsys.readouterr().out


def test_several_bundles_are_built_in_turn(
    pack_variants: Pack, forge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    forge.go.set()
    paths = [pack_variants("forge-a", name="a"), pack_variants("forge-b", name="b")]
    assert main(["build", *map(str, paths), "--json"]) == EXIT_DONE
    bundles = json.loads(capsys.readouterr().out)["bundles"]
    assert [(one["name"], one["variants"][0]["id"]) for one in bundles] == [
        ("a", "forge-a"),
        ("b", "forge-b"),
    ]


def test_one_build_that_fails_exits_3_and_leaves_the_others(
    pack_variants: Pack, forge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    forge.go.set()
    forge.fail["forge-a"] = EngineError("out of memory", hint="buy some")
    assert main(["build", str(pack_variants("forge-a", "forge-b"))]) == EXIT_UNAVAILABLE
    out = capsys.readouterr().out
    assert "✗ forge-a: forge failed: out of memory" in out
    assert "hint: buy some" in out
    assert "✓ forge-b: built" in out


def test_an_engine_that_is_not_here_exits_3_with_its_hint(
    pack_variants: Pack, forge: Any, ask: Build
) -> None:
    forge.is_ready = False
    code, (variant,) = ask(pack_variants("forge-a", "null-a"))
    assert (code, variant["state"], variant["hint"]) == (EXIT_UNAVAILABLE, "skipped", "light it")
    assert "the fire is out" in variant["reason"]


def test_what_this_machine_does_not_meet_is_not_built(pack_variants: Pack, ask: Build) -> None:
    code, (variant,) = ask(pack_variants("forge-a", requires={"forge": ">=11"}))
    assert (code, variant["state"]) == (EXIT_UNAVAILABLE, "skipped")
    assert variant["reason"] == "it needs forge >=11, this machine has 10.3.0"


def test_one_variant_or_engine_can_be_named(pack_variants: Pack, ask: Build, forge: Any) -> None:
    path = pack_variants("forge-a", "forge-b", "null-a")
    assert [one["id"] for one in ask(path, "--variant", "forge-b")[1]] == ["forge-b"]
    assert ask(path, "--engine", "null") == (EXIT_DONE, [])
    assert forge.built == {"forge-b"}


def test_a_variant_that_is_not_there_or_a_damaged_bundle_is_wrong_usage(
    pack_variants: Pack, forge: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pack_variants("forge-a")
    assert main(["build", str(path), "--variant", "x"]) == EXIT_USAGE
    assert "has no variant with id 'x'" in capsys.readouterr().err
    (tmp_path / "bad.edge").write_bytes(b"no bundle")
    assert main(["build", str(path), str(tmp_path / "bad.edge")]) == EXIT_USAGE
    assert forge.asked == []  # nothing was begun


def test_progress_is_drawn_by_variant(
    pack_variants: Pack, ask: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, int, int]] = []

    @contextlib.contextmanager
    def recording_bars() -> Iterator[Any]:
        yield lambda *step: drawn.append(step)

    monkeypatch.setattr(build, "bars", recording_bars)
    ask(pack_variants("forge-a"))
    assert drawn == [("forge-a", 42, 100)]


HANGING = """
import sys, threading
sys.path[:0] = [{tests!r}, {tests!r} + "/fakes/machine"]
from edge.core import plugins
from conftest import Forge

forge, backend, stems = Forge(), plugins.backend, plugins.stems
forge.go.wait = lambda _: (print("begun", flush=True), threading.Event().wait())
plugins.backend = lambda name: forge if name == "forge" else backend(name)
plugins.stems = lambda package, *suffix: [*stems(package, *suffix), "forge"]
from edge.cli._main import main
sys.exit(main(["build", sys.argv[1]]))
"""


def test_an_interrupt_ends_it_though_the_builder_does_not_listen(pack_variants: Pack) -> None:
    code = HANGING.format(tests=str(Path(__file__).parent.parent))
    command = [sys.executable, "-c", code, str(pack_variants("forge-a"))]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=LONG_S)
        finally:
            process.kill()
    assert process.returncode == EXIT_INTERRUPTED
    assert err == "interrupted\n"
