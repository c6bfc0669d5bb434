"""The main job on the sample model: convert it, serve it, send it pictures, watch its telemetry.

Ends by itself. What it does by hand, the commands it prints do as well.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.rule import Rule

from edge.bundle import open_bundle
from edge.telemetry import lines, view
from edge.telemetry.board import Board
from edge.telemetry.broker import EmbeddedBroker
from edge.telemetry.watcher import Watcher
from edge.vision import ImagePipeline

ROOT = Path(__file__).resolve().parent.parent
DIGITS = Path("examples/digits")
BUNDLE = Path("build/demo/digits.edge")
SHOW_S = 8.0
REQUESTS_PER_S = 150
READY_S = 120.0

console = Console(width=None if sys.stdout.isatty() else 80, highlight=False)


def main() -> int:
    os.chdir(ROOT)
    BUNDLE.parent.mkdir(parents=True, exist_ok=True)
    heading("1", "Convert the sample model for this machine")
    converted = run(
        *("convert", DIGITS / "digits.onnx", "--spec", DIGITS / "model.toml"),
        *("--calib", DIGITS / "calib", "--eval", DIGITS / "eval", "-o", BUNDLE),
    )
    if converted != 0:
        return converted
    heading("2", "Serve it, with an MQTT broker inside this process")
    with EmbeddedBroker() as broker, serving(broker.url) as (server, url):
        heading("3", f"Send it {len(pictures())} held-out pictures, and watch the telemetry")
        client = Client(url)
        watch(broker.url, client)
        heading("4", "Stop")
        server.send_signal(signal.SIGTERM)
        code = server.wait(READY_S)
    console.print(client.summary())
    console.print(f"server drained and ended with exit code {code}")
    console.print(f"\n[dim]Go on with:[/] .venv/bin/edge run {BUNDLE} {pictures()[0]}")
    return code or client.exit_code


def heading(number: str, text: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{number}  {text}[/]", align="left", style="bright_black"))


def command(*arguments: object) -> list[str]:
    words = [str(argument) for argument in arguments]
    shown = textwrap.wrap(f"$ edge {shlex.join(words)}", 76, break_on_hyphens=False)
    console.print(" \\\n    ".join(shown), style="dim", soft_wrap=True, markup=False)
    return [sys.executable, "-m", "edge", *words]


def run(*arguments: object) -> int:
    return subprocess.run(command(*arguments), check=False).returncode


@contextmanager
def serving(broker_url: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``edge serve`` in a process of its own, and the URL that it says it listens on."""
    server = subprocess.Popen(
        command("serve", BUNDLE, "--http", "127.0.0.1:0", "--mqtt", broker_url),
        env={**os.environ, "EDGE_MQTT_INTERVAL_S": "1", "EDGE_MQTT_DEVICE": "demo"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield server, _ready_url(server)
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()


def _ready_url(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        console.print(line.rstrip(), soft_wrap=True)
        found = re.search(r"http://\S+", line)
        if found:
            return found[0]
    raise SystemExit(f"edge serve ended with exit code {server.wait()}")


def pictures() -> list[Path]:
    return sorted((DIGITS / "eval").glob("*/*.png"))


class Client:
    """NVIDIA's stock client: the server speaks KServe v2, so it needs nothing of ours."""

    def __init__(self, url: str) -> None:
        self._url = url.removeprefix("http://")
        self.sent = self.right = 0
        self.error = ""
        with open_bundle(BUNDLE) as bundle:
            assert bundle.manifest.image is not None
            self._pipeline = ImagePipeline(bundle.manifest.image)

    def send_all(self, stop: threading.Event) -> None:
        """Each picture in turn, again and again, until told to stop."""
        from tritonclient.http import InferenceServerClient, InferInput

        client = InferenceServerClient(self._url)
        try:
            while not stop.is_set():
                for picture in pictures():
                    tensor = self._pipeline(picture)
                    given = InferInput("image", list(tensor.shape), "FP32")
                    given.set_data_from_numpy(tensor)
                    scores = client.infer("digits", [given]).as_numpy("logits")
                    self.sent += 1
                    self.right += int(scores.argmax()) == int(picture.parent.name)
                    if stop.wait(1 / REQUESTS_PER_S):
                        break
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
        finally:
            client.close()

    def summary(self) -> str:
        if self.error:
            return f"[red]the client failed: {self.error}[/]"
        return f"{self.sent} pictures sent, {100 * self.right / max(1, self.sent):.2f} % read right"

    @property
    def exit_code(self) -> int:
        return 0 if self.sent and not self.error else 1


def watch(broker_url: str, client: Client) -> None:
    """The telemetry while pictures are sent: a live board on a terminal, else lines."""
    stop = threading.Event()
    sender = threading.Thread(target=client.send_all, args=(stop,))
    sender.start()
    try:
        console.print(f"[dim]$ edge watch --mqtt {broker_url} --seconds {SHOW_S:g}[/]")
        with Watcher(broker_url) as watcher:
            show(watcher) if sys.stdout.isatty() else print_lines(watcher)
    finally:
        stop.set()
        sender.join()


def show(watcher: Watcher) -> None:
    board = Board()
    end_s = time.monotonic() + SHOW_S
    with Live(console=console, auto_refresh=False) as live:
        while time.monotonic() < end_s:
            for arrival in watcher.poll(0.25):
                board.add(arrival)
            live.update(view.render(board, now_s=time.monotonic()), refresh=True)


def print_lines(watcher: Watcher) -> None:
    for arrival in watcher.messages(SHOW_S):
        console.print(lines.plain_line(arrival), soft_wrap=True, markup=False)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
