"""Downloads from a real HTTP server that cuts, lies and refuses."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import logging
import os
import random
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import LONG_S

from edge.core.errors import BundleError, EdgeError, InputError, UnavailableError
from edge.telemetry.updates.download import Download, Terms, check_url
from edge.telemetry.updates.partial import Partial, Room

CONTENTS = random.Random(0).randbytes(600_000)
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


class Behaviour:
    """What the server does next; each request takes the next entry, the last one stays."""

    def __init__(self) -> None:
        self.contents = CONTENTS
        self.etag = '"one"'
        self.takes_ranges = True
        self.steps: list[dict[str, Any]] = [{}]
        self.requests: list[tuple[str, dict[str, str]]] = []

    def step(self) -> dict[str, Any]:
        return self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]


class Handler(http.server.BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        told = self.behaviour
        told.requests.append((self.path, dict(self.headers)))
        step = told.step()
        if "status" in step:
            self.send_response(step["status"])
            for name, value in step.get("headers", {}).items():
                self.send_header(name, value)
            self.end_headers()
            return
        start = self._start()
        body = told.contents[start:]
        if start >= len(told.contents) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(told.contents)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            end = len(told.contents) - 1
            shift = step.get("shift", 0)
            self.send_header("Content-Range", f"bytes {start + shift}-{end}/{len(told.contents)}")
        if not step.get("no_length"):
            self.send_header("Content-Length", str(step.get("length", len(body))))
        self.send_header("ETag", told.etag)
        for name, value in step.get("headers", {}).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # who has heard enough hangs up
            self.wfile.write(body[: step.get("cut", len(body))])

    def _start(self) -> int:
        told, text = self.behaviour, self.headers.get("Range", "")
        condition = self.headers.get("If-Range", told.etag)
        if not text or not told.takes_ranges or condition != told.etag:
            return 0
        return int(text.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def behaviour() -> Behaviour:
    return Behaviour()


@pytest.fixture
def serve(behaviour: Behaviour) -> Iterator[Callable[..., str]]:
    servers: list[http.server.HTTPServer] = []

    def start(context: ssl.SSLContext | None = None) -> str:
        handler = type("Bound", (Handler,), {"behaviour": behaviour})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        scheme = "https" if context else "http"
        return f"{scheme}://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def url(serve: Callable[..., str]) -> str:
    return f"{serve()}/digits.edge"


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., Path]:
    def run(url: str, sha256: str = SHA256, **fields: Any) -> Path:
        given = {
            "room": Room(tmp_path, 10**9, 0),
            "patience_s": 60.0,
            "timeout_s": LONG_S,
            "ca": "",
        }
        idle = {"told": lambda *_: None, "check": lambda: None, "wait": lambda _: None}
        with Partial(tmp_path / "updates", sha256) as partial:
            Download(url, partial, Terms(**{**given, **idle, **fields})).run()
            return partial.path

    return run


def test_a_file_comes_whole(url: str, fetch: Callable[..., Path]) -> None:
    told: list[tuple[int, int | None]] = []
    path = fetch(url, told=lambda have, total: told.append((have, total)))
    assert path.read_bytes() == CONTENTS
    assert told[-1] == (len(CONTENTS), len(CONTENTS))


def test_a_cut_file_goes_on_where_it_ended(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour
) -> None:
    behaviour.steps = [{"cut": 100_000}, {"cut": 1}, {"cut": 250_000}, {}]
    assert fetch(url).read_bytes() == CONTENTS
    ranges = [headers.get("Range") for _, headers in behaviour.requests]
    assert ranges == [None, "bytes=100000-", "bytes=100001-", "bytes=350001-"]
    assert behaviour.requests[1][1]["If-Range"] == '"one"'


def test_what_another_process_left_is_gone_on_with(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour, tmp_path: Path
) -> None:
    behaviour.steps = [{"cut": 100_000}, {"status": 503}]
    with pytest.raises(UnavailableError, match="503"):
        fetch(url, patience_s=0.0)
    behaviour.steps = [{}]
    assert fetch(url).read_bytes() == CONTENTS
    assert behaviour.requests[-1][1]["Range"] == "bytes=100000-"


def test_what_was_there_whole_is_not_fetched_again(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour
) -> None:
    fetch(url)
    behaviour.requests.clear()
    assert fetch(url).read_bytes() == CONTENTS
    assert [headers["Range"] for _, headers in behaviour.requests] == ["bytes=600000-"]


def test_a_server_without_ranges_sends_all_again(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour
) -> None:
    behaviour.takes_ranges = False
    behaviour.steps = [{"cut": 100_000}, {}]
    assert fetch(url).read_bytes() == CONTENTS


def test_a_server_that_never_comes_further_is_given_up(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour
) -> None:
    behaviour.takes_ranges = False
    behaviour.steps = [{"cut": 100_000}]
    with pytest.raises(UnavailableError, match=r"ended after 100,000 of 600,000 bytes"):
        fetch(url, patience_s=0.0)


def test_a_file_that_changed_meanwhile_is_fetched_anew(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour
) -> None:
    behaviour.contents, behaviour.etag = CONTENTS[::-1], '"old"'
    behaviour.steps = [{"cut": 100_000}, {}]

    def change(_: float) -> None:
        behaviour.contents, behaviour.etag = CONTENTS, '"new"'

    assert fetch(url, wait=change).read_bytes() == CONTENTS
    assert len(behaviour.requests) == 2


def test_rubbish_that_was_kept_costs_one_more_download(
    url: str, fetch: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "updates").mkdir()
    for kept in (b"x" * 1000, b"x" * len(CONTENTS), b"x" * 2 * len(CONTENTS)):
        (tmp_path / "updates" / f"{SHA256}.partial").write_bytes(kept)
        assert fetch(url).read_bytes() == CONTENTS


@pytest.mark.parametrize(
    "first",
    [
        {"length": 700_000},
        {"length": 10},
        {"no_length": True, "cut": 1000},
        {"status": 206},
        {"status": 204},
        {"status": 429},
        {"status": 500},
        {"cut": 1000, "length": "nonsense"},
    ],
)
def test_a_server_that_lies_once_is_asked_again(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour, first: dict[str, Any]
) -> None:
    behaviour.steps = [first, {}]
    assert fetch(url).read_bytes() == CONTENTS


def test_another_part_than_was_asked_for_is_not_used(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour
) -> None:
    behaviour.steps = [{"cut": 100_000}, {"shift": -7}, {}]
    assert fetch(url).read_bytes() == CONTENTS
    assert "Range" not in behaviour.requests[-1][1]


def test_other_contents_are_an_error(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour
) -> None:
    with pytest.raises(BundleError, match=f"has the SHA-256 {SHA256}, not {'0' * 64}"):
        fetch(url, "0" * 64)
    assert len(behaviour.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_final(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour, status: int
) -> None:
    behaviour.steps = [{"status": status}]
    with pytest.raises(InputError, match=f"answers {status}"):
        fetch(url)
    assert len(behaviour.requests) == 1


def test_a_redirect_is_followed_a_few_times(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour
) -> None:
    there = {"status": 302, "headers": {"Location": "/there"}}
    behaviour.steps = [there, {}]
    assert fetch(url).read_bytes() == CONTENTS
    behaviour.steps = [{"status": 302, "headers": {"Location": "?again"}}]
    with pytest.raises(InputError, match="302"):
        fetch(url, hashlib.sha256(b"").hexdigest())
    assert len(behaviour.requests) < 12


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://", "data:,x"]
)
def test_a_redirect_leads_nowhere_but_to_http(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour, target: str
) -> None:
    behaviour.steps = [{"status": 302, "headers": {"Location": target}}]
    with pytest.raises(InputError):
        fetch(url)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ({"status": 403}, InputError),
        ({"status": 500}, UnavailableError),
        ({"status": 302, "headers": {"Location": "file:///x?token=hunter2"}}, InputError),
        ({}, BundleError),
    ],
)
def test_no_error_and_no_log_shows_the_token_of_a_url(
    url: str,
    fetch: Callable[..., Path],
    behaviour: Behaviour,
    caplog: pytest.LogCaptureFixture,
    step: dict[str, Any],
    error: type[EdgeError],
) -> None:
    caplog.set_level(logging.DEBUG)
    behaviour.steps = [step]
    with pytest.raises(error) as caught:
        fetch(f"{url}?token=hunter2", "0" * 64, patience_s=-1.0)
    assert "hunter2" not in f"{caught.value}{caught.value.hint}{caplog.text}"
    assert url in str(caught.value)


def test_a_compressed_answer_is_refused(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour
) -> None:
    behaviour.steps = [{"headers": {"Content-Encoding": "gzip"}}]
    with pytest.raises(InputError, match="compressed"):
        fetch(url)


@pytest.mark.parametrize("step", [{}, {"no_length": True}])
def test_what_is_too_large_is_not_taken(
    url: str, fetch: Callable[..., Path], behaviour: Behaviour, tmp_path: Path, step: dict[str, Any]
) -> None:
    behaviour.steps = [step]
    with pytest.raises(InputError, match="at most 300,000 are taken"):
        fetch(url, room=Room(tmp_path, 300_000, 0))
    kept = [path.stat().st_size for path in (tmp_path / "updates").iterdir()]
    assert max(kept, default=0) <= 300_000


def test_a_disk_that_is_nearly_full_stays_so(
    url: str, fetch: Callable[..., Path], tmp_path: Path
) -> None:
    disk = os.statvfs(tmp_path)
    with pytest.raises(UnavailableError, match="stay free; 600,000 are to come"):
        fetch(url, room=Room(tmp_path, 10**9, disk.f_blocks * disk.f_frsize))


def test_nobody_there_is_tried_again_until_patience_ends(fetch: Callable[..., Path]) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("http://127.0.0.1:1/x", wait=wait)
    assert waits[4] > waits[0]
    with pytest.raises(UnavailableError, match="refused"):
        fetch("http://127.0.0.1:1/x", patience_s=0.0)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0" * 5000,
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nxx",
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-" + b"9" * 5000 + b"/*\r\n\r\nxx",
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 5-4/3\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nxx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\nxx",
        b"HTTP/1.1 302 OK\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 416 OK\r\nContent-Range: nonsense\r\n\r\n",
        b"HTTP/9.9 999 \xff\r\n\r\n",
    ],
)
def test_a_server_that_talks_nonsense_is_a_clear_error(
    fetch: Callable[..., Path], answer: bytes, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client:
                        client.recv(4096)
                        client.sendall(answer)

        thread = threading.Thread(target=talk)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(EdgeError):
            fetch(f"http://127.0.0.1:{port}/x", patience_s=0.0)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert (tmp_path / "updates" / f"{SHA256}.partial").stat().st_size < 10


def test_a_silent_server_is_left_in_time(fetch: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UnavailableError, match="timed out"):
            fetch(f"http://127.0.0.1:{port}/x", timeout_s=0.1, patience_s=0.0)


@pytest.mark.parametrize(
    "url",
    [
        *("", "digits.edge", "file:///etc/passwd", "ftp://a/b", "http://", "http://a b/"),
        *("http://[::1", "http://a:b/", "https://ä/", "http://a..b/", "//a/b", "http://a/\x00"),
        "http://user:secret@127.0.0.1/x",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="no URL"):
        check_url(url)


def test_a_server_is_known_by_its_certificate(
    serve: Callable[..., str], fetch: Callable[..., Path], tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(
            [*command, "-keyout", key, "-out", certificate], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    url = f"{serve(context)}/digits.edge"
    with pytest.raises(InputError, match="certificate is refused") as caught:
        fetch(url)
    assert "[update]" in caught.value.hint
    assert fetch(url, ca=str(certificate)).read_bytes() == CONTENTS
    for wrong in (tmp_path / "none.pem", key):
        with pytest.raises(InputError, match="authorities"):
            fetch(url, ca=str(wrong))


def test_no_second_update_writes_into_the_same_file(tmp_path: Path) -> None:
    second = Partial(tmp_path / "updates", SHA256)
    with (
        Partial(tmp_path / "updates", SHA256),
        pytest.raises(UnavailableError, match="another update"),
    ):
        second.__enter__()
    with second:
        pass


def test_what_never_came_whole_does_not_pile_up(tmp_path: Path) -> None:
    for number in range(12):
        with Partial(tmp_path / "updates", f"{number:064}") as partial:
            partial.write(b"x", 0)
            partial.notes_path.write_bytes(b"{}")
    left = sorted(path.name for path in (tmp_path / "updates").iterdir())
    assert len(left) <= 8
    assert f"{11:064}.partial" in left


def test_a_disk_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with Partial(tmp_path / "updates", SHA256) as partial:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(EdgeError, match="No space left"):
            partial.write(b"x", 0)
