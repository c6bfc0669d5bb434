"""Whether the service is well, as a deployment asks for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edge.deploy.ondevice import service
from edge.deploy.ondevice.layout import Layout

MODEL = {"name": "m", "version": "1", "digest": "d"}
READY = {**MODEL, "state": "ready", "is_active": True}
Serve = Callable[[int, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answer all that is asked alike; gives the address."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, data: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What it says of the service, and how often it was asked."""
    known = {"ActiveState": "active", "Result": "success", "NRestarts": "0", "asked": 0}

    def show() -> dict[str, Any]:
        known["asked"] += 1
        return known

    monkeypatch.setattr(service, "show", show)
    return known


def health(tmp_path: Path, url: str) -> service.Health:
    release = {"http": url.removeprefix("http://"), "models": [MODEL]}
    return service.Health(Layout(str(tmp_path)), release, asks_broker=True)


@pytest.mark.parametrize("status", [200, 503])
def test_a_service_tells_of_itself_ready_or_not(serve: Serve, status: int) -> None:
    assert service.readiness(serve(status, b'{"models": []}')) == {"models": []}


@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b"\xff\xfe"])
def test_what_is_no_answer_of_ours_is_none(serve: Serve, data: bytes) -> None:
    assert service.readiness(serve(200, data)) is None


def test_nothing_answers_where_nothing_listens(tmp_path: Path, systemd: dict[str, Any]) -> None:
    assert service.readiness("http://127.0.0.1:1") is None
    assert service.readiness("http://[::1]:1") is None
    look = health(tmp_path, "http://127.0.0.1:1").look()
    assert look == ("nothing answers at http://127.0.0.1:1", False, False)


def test_systemd_is_asked_once_all_else_is_well(
    tmp_path: Path, serve: Serve, systemd: dict[str, Any]
) -> None:
    loading = json.dumps({"models": [{**READY, "state": "loading"}]}).encode()
    assert health(tmp_path, serve(503, loading)).look() == ("m 1 is loading", False, True)
    assert systemd["asked"] == 0
    ready = json.dumps({"models": [READY]}).encode()
    assert health(tmp_path, serve(200, ready)).look() == ("", True, False)
    assert systemd["asked"] == 1


def test_a_service_that_keeps_ending_is_not_well_though_it_answers(
    tmp_path: Path, serve: Serve, systemd: dict[str, Any]
) -> None:
    systemd.update(NRestarts="3", Result="watchdog")
    ready = json.dumps({"models": [READY]}).encode()
    reason, is_final, _ = health(tmp_path, serve(200, ready)).look()
    assert reason.startswith("the service ended (watchdog)")
    assert is_final
