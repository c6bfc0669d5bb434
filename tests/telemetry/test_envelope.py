"""The envelope, as the reference has it."""

from __future__ import annotations

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge.core.errors import InputError
from edge.telemetry.envelope import Sealer, decode, encode


def test_envelope_has_the_fields_of_the_format() -> None:
    before_ns, before_ms = time.monotonic_ns(), int(time.time() * 1000)
    message = json.loads(encode(Sealer().seal({"cpu_percent": 12.5})))
    assert list(message) == ["v", "id", "seq", "boot", "mono_ns", "ts_ms", "synced", "hist", "m"]
    assert message["v"] == 1
    assert message["id"] == f"{uuid.UUID(message['boot'])}:{message['seq']}"
    assert before_ns <= message["mono_ns"] <= time.monotonic_ns()
    assert before_ms <= message["ts_ms"] <= int(time.time() * 1000) + 1
    assert isinstance(message["synced"], bool)
    assert message["hist"] is False
    assert message["m"] == {"cpu_percent": 12.5}


def test_every_message_of_a_boot_has_its_own_number() -> None:
    sealer = Sealer()
    with ThreadPoolExecutor(4) as threads:
        numbers = [e.seq for e in threads.map(lambda _: sealer.seal({}), range(400))]
    assert sorted(numbers) == list(range(min(numbers), min(numbers) + 400))
    assert sealer.boot != Sealer().boot


def test_envelope_survives_the_way() -> None:
    envelope = Sealer().seal({"models": [{"name": "digits"}]})
    assert decode(encode(envelope)).metrics() == {"models": [{"name": "digits"}]}


DEEP = b'{"v":1,"m":' + b"[" * 5000


@pytest.mark.parametrize("metrics", [b"3", b'{"name":"\xff"}'])
def test_metrics_that_are_none_are_refused(metrics: bytes) -> None:
    envelope = decode(encode(Sealer().seal({})).replace(b"{}", metrics))
    with pytest.raises(InputError, match="metrics"):
        envelope.metrics()


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"v":1}', b"\xff\xfe", b"online", DEEP])
def test_what_is_no_envelope_is_refused(payload: bytes) -> None:
    with pytest.raises(InputError, match="envelope"):
        decode(payload)


def test_envelope_of_another_version_is_refused() -> None:
    with pytest.raises(InputError, match="version 2"):
        decode(encode(Sealer().seal({})).replace(b'"v":1', b'"v":2', 1))
