"""Commands over a real broker, from the first word to the last."""

from __future__ import annotations

from typing import Any

import pytest

from edge.host import Runtime


def test_load_is_done_and_told_with_all_that_came(
    start: Any, operator: Any, runtime: Runtime
) -> None:
    start(load=True)
    operator.order("load/a-1", model="digits", x_ticket={"nr": 7})
    executing = operator.answer("load/a-1", "executing")
    assert executing["model"] == "digits"
    answer = operator.answer("load/a-1")
    assert answer["status"] == "successful"
    assert answer["x_ticket"] == {"nr": 7}
    assert answer["result"]["version"] == "2"
    assert runtime.status_of("digits").state == "ready"
    assert operator.event(id="a-1")["status"] == "successful"


@pytest.mark.parametrize(
    ("path", "payload", "kind", "part"),
    [
        ("load/a", b"nonsense", "invalid", "can not be read"),
        ("load/a", b"[1]", "invalid", "can not be read"),
        ("load/a", b'{"model": "\xff"}', "invalid", "can not be read"),
        ("load/a", b'{"a":' * 5000, "invalid", "can not be read"),
        ("load/a", b'{"model": "digits"}', "invalid", "no status"),
        ("load/a", b'{"status": "init"}', "invalid", "model"),
        ("load/a", b'{"status": "init", "model": 3}', "invalid", "str"),
        ("load/a", b'{"status": "init", "model": "digits", "verison": "1"}', "invalid", "verison"),
        ("load/a", b'{"status": "init", "model": "digits", "expires": "x"}', "invalid", "expires"),
        ("load/a", b'{"status": "init", "x_": "' + b"a" * 40_000 + b'"}', "invalid", "more than"),
        ("load/a b", b'{"status": "init", "model": "digits"}', "invalid", "id"),
        ("load/" + "a" * 65, b'{"status": "init", "model": "digits"}', "invalid", "id"),
        ("load/a", b'{"status": "init", "model": "other"}', "not-found", "other"),
        ("unload/a", b'{"status": "init", "model": "digits"}', "not-allowed", "not allowed"),
        ("explode/a", b'{"status": "init"}', "unsupported", "explode"),
    ],
)
def test_bad_command_fails_with_a_reason(
    start: Any, operator: Any, path: str, payload: bytes, kind: str, part: str
) -> None:
    start(load=True)
    operator.send(f"cmd/{path}", payload)
    answer = operator.answer(path, "failed")
    assert (answer["kind"], part in answer["reason"]) == (kind, True), answer
