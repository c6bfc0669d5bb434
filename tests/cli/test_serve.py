from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from patience import LONG_S

from edge.bundle import pack
from edge.cli import serve as serve_command
from edge.cli._main import EXIT_UNAVAILABLE, EXIT_USAGE, main
from edge.core.contracts import Placement
from edge.core.manifest import Manifest, Variant
from edge.core.tensor import TensorSpec
from edge.host import BuildProgress, ModelStatus
from edge.telemetry.broker import EmbeddedBroker

Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A model that answers zeros, in two variants of which the first is preferred."""
    parts = tmp_path / "parts"
    parts.mkdir()
    x, y = TensorSpec("x", "float32", (1, 2)), TensorSpec("y", "float32", (1, 1))
    variants = tuple(
        Variant(
            id=name,
            engine="null",
            precision=name,
            files=(),
            inputs=(x,),
            outputs=(y,),
            requires=requires,
            chosen=name == "int8",
        )
        for name, requires in (("int8", {"sm": "87"}), ("fp32", {}))
    )
    manifest = Manifest(
        schema=1,
        name="zeros",
        version="1",
        task="tensors",
        profile="host",
        source_sha256="0" * 64,
        variants=variants,
    )
    return pack(manifest, parts, tmp_path / "zeros.edge")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`edge serve` with arguments, ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "edge", "serve", *map(str, arguments)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=tmp_path, text=True, **pipes))
        return started[-1]

    yield begin
    for process in started:
        process.terminate()
        process.communicate(timeout=LONG_S)
        assert process.returncode == 0


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_the_ready_line_as_json_says_where_it_serves_and_what(bundle: Path, serve: Serve) -> None:
    ready = json.loads(next_line(serve(bundle, "--http", "127.0.0.1:0", "--json")))

    (model,) = ready["models"]
    assert (model["name"], model["state"], model["engine"]) == ("zeros", "ready", "null")
    with urllib.request.urlopen(f"{ready['http']}/v2/models/zeros", timeout=LONG_S) as answer:
        assert json.load(answer)["name"] == "zeros"


def test_a_fallback_is_said_with_its_reason(bundle: Path, serve: Serve) -> None:
    process = serve(bundle, "--http", "127.0.0.1:0")
    next_line(process)

    process.terminate()
    # Not communicate(): it reads past what readline() has buffered.
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout.read(), process.stderr.read()

    for text in (out, err):
        assert "int8" in text
        assert "sm 87" in text
    assert "fallback" in out


def test_the_log_of_a_server_says_what_was_done_to_it_and_nothing_of_requests(
    bundle: Path, tmp_path: Path, serve: Serve
) -> None:
    with EmbeddedBroker() as broker:
        (tmp_path / "edge.toml").write_text(
            f'[mqtt]\nurl = "{broker.url}"\nfleet = "lab"\ndevice = "one"\noutbox = "memory"\n'
            "[commands]\nload = true\n"
        )
        process = serve(bundle, "--http", "127.0.0.1:0", "--json")
        url = json.loads(next_line(process))["http"]
        for _ in range(20):
            with urllib.request.urlopen(f"{url}/v2/models/zeros", timeout=LONG_S):
                pass
        sent = ("load", "model=zeros", "--device", "one", "--fleet", "lab", "--id", "job-1")
        assert main(["fleet", "send", *sent, "--mqtt", broker.url]) == 0
        process.terminate()
        assert process.stderr is not None
        log = process.stderr.read().splitlines()

    assert [line for line in log if "load/job-1 begins" in line and '"model":"zeros"' in line]
    assert [line for line in log if "load/job-1 is done" in line]
    assert len(log) < 10


def test_flags_go_before_the_settings_file(bundle: Path, tmp_path: Path, serve: Serve) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(f'[serve]\nhttp = "nowhere"\nmodels = ["{bundle}"]\nengine = "absent"\n')

    process = serve("--config", config, "--http", "127.0.0.1:0", "--engine", "null")

    printed = [next_line(process)]
    while printed[-1] and not printed[-1].startswith("serving"):
        printed.append(next_line(process))
    assert printed[0].startswith("  ✓ zeros 1  null")
    assert printed[-1].startswith("serving http://127.0.0.1:")


def test_a_denied_fallback_leaves_the_model_failed(bundle: Path, serve: Serve) -> None:
    ready = json.loads(
        next_line(serve(bundle, "--http", "127.0.0.1:0", "--fallback", "deny", "--json"))
    )
    (model,) = ready["models"]
    assert model["state"] == "failed"
    assert "fallback is denied" in model["reason"]


def test_nothing_to_serve_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["serve", "--http", "127.0.0.1:0"]) == EXIT_USAGE

    assert "hint: name a bundle" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["lots", "9000TiB"])
def test_a_memory_that_is_no_size_or_that_is_not_there_is_wrong_usage(
    size: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(bundle), "--http", "127.0.0.1:0", "--memory", size]) == EXIT_USAGE

    assert f"error: --memory = '{size}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("is_folder", "more", "why", "hint"),
    [
        (False, '[trust]\nrequire = "never"', "only files", "edge serve FOLDER"),
        (True, "", "no key is trusted", "keys in [trust]"),
        (True, '[trust]\nrequire = "never"\n[update]\nfolder = "/other"', "/other is not", "serve"),
    ],
    ids=["no folder", "no keys", "another folder"],
)
def test_updates_that_could_never_come_are_told_at_the_start_with_their_line(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    is_folder: bool,
    more: str,
    why: str,
    hint: str,
) -> None:
    settings = tmp_path / "edge.toml"
    settings.write_text(
        f"[mqtt]\nurl = 'mqtt://127.0.0.1:1'\n[commands]\nload = true\nupdate = true\n{more}\n"
    )
    served = bundle.parent if is_folder else bundle
    words = ["serve", str(served), "--http", "127.0.0.1:0", "--config", str(settings)]
    assert main(words) == EXIT_USAGE
    told = capsys.readouterr().err
    assert f"{settings}, line 5, [commands]: update = true, and " in told
    assert why in told
    assert hint in told


def test_an_address_of_another_machine_is_unavailable(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bundle.parent)

    # 192.0.2.0/24 is set aside for documentation (RFC 5737), so no machine has it.
    assert main(["serve", str(bundle), "--http", "192.0.2.1:0"]) == EXIT_UNAVAILABLE

    captured = capsys.readouterr().err
    assert "192.0.2.1:0" in captured
    assert "hint:" in captured


class Runtime:
    """A runtime that tells of each status in turn."""

    def __init__(self, *statuses: ModelStatus) -> None:
        self.left = list(statuses)

    def status(self) -> list[ModelStatus]:
        return [self.left.pop(0) if len(self.left) > 1 else self.left[0]]


BUILDING = ModelStatus(
    "zeros", "1", "building", "v is being built: 42 % (timing)", building=BuildProgress("v")
)
READY = ModelStatus(
    "zeros",
    "1",
    "ready",
    engine="tensorrt",
    precision="int8",
    choice="chosen at conversion",
    placement=Placement("gpu", "gpu", {}, "int8"),
)


@pytest.mark.parametrize("tell", [serve_command._tell, serve_command._tell_json])
def test_a_model_is_told_of_again_once_its_engine_is_built(
    tell: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve_command, "_LOOK_S", 0)
    runtime: Any = Runtime(BUILDING, BUILDING, READY)
    tell_it = partial(tell, "http://here")
    told = runtime.status()
    tell_it(told, "serving")
    asyncio.run(serve_command._follow_builds(runtime, told, tell_it))
    out = capsys.readouterr().out
    if tell is serve_command._tell_json:
        first, second = map(json.loads, out.splitlines())
        assert (first["event"], first["models"][0]["state"]) == ("serving", "building")
        assert (second["event"], second["models"][0]["state"]) == ("built", "ready")
    else:
        assert out.splitlines() == [
            "  · zeros 1  v is being built: 42 % (timing)",
            "serving http://here",
            "  ✓ zeros 1  tensorrt int8 on gpu",
            "    chosen at conversion",
        ]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code after SIGTERM, and what it complained of on stderr."""
    process.terminate()
    try:
        _, err = process.communicate(timeout=LONG_S)
    finally:
        process.kill()
    complaints = (line for line in err.splitlines() if not line.startswith("INFO "))
    return process.returncode, "\n".join(complaints)


BUILDING_FOREVER = """
import sys, threading
sys.path[:0] = [{tests!r}, {tests!r} + "/fakes/machine"]
from edge.core import plugins
from conftest import Forge

forge, backend, stems = Forge(), plugins.backend, plugins.stems
forge.go.wait = lambda _: threading.Event().wait()
plugins.backend = lambda name: forge if name == "forge" else backend(name)
plugins.stems = lambda package, *suffix: [
    *stems(package, *suffix), *(["forge"] if package == "runtimes" else [])
]
from edge.cli._main import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("fallback", ["deny", "allow"])
def test_a_build_does_not_keep_the_server_from_ending(
    fallback: str, pack_variants: Callable[..., Path], tmp_path: Path
) -> None:
    code = BUILDING_FOREVER.format(tests=str(Path(__file__).parent.parent))
    path = pack_variants("forge-int8", "null-int8")
    arguments = (str(path), "--http", "127.0.0.1:0", "--json", "--fallback", fallback)
    command = [sys.executable, "-c", code, *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:
        (model,) = json.loads(next_line(process))["models"]
        assert model["state"] == ("building" if fallback == "deny" else "ready")
        assert model["building"]["variant"] == "forge-int8"
        assert ended(process) == (0, "")


LOADING_FOREVER = """
import sys, threading
from edge.core import plugins
from edge.cli._main import main

backend = plugins.backend("null")
opened, really_open = [], backend.open

def open_once(*args):
    opened.append(args)
    if len(opened) > 1:
        print("hangs", flush=True)
        threading.Event().wait()
    return really_open(*args)

backend.open = open_once
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def test_a_load_that_goes_on_does_not_keep_the_server_from_ending(
    pack_variants: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "edge.toml").write_text("[serve]\ncontrol = true\n")
    arguments = (str(pack_variants("null-int8")), "--http", "127.0.0.1:0", "--json")
    command = [sys.executable, "-c", LOADING_FOREVER, *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:
        address = json.loads(next_line(process))["http"].removeprefix("http://")
        client = HTTPConnection(address, timeout=LONG_S)
        client.request("POST", "/v2/repository/models/m/unload")
        assert client.getresponse().read() == b""
        client.request("POST", "/v2/repository/models/m/load")
        assert next_line(process) == "hangs\n"
        client.close()
        assert ended(process) == (0, "")


def test_nothing_more_is_told_where_nothing_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    runtime: Any = Runtime(READY)
    asyncio.run(serve_command._follow_builds(runtime, runtime.status(), print))
    assert capsys.readouterr().out == ""
