"""Updates over a real broker: by URL and in chunks, signed or not, and for whom they are."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from patience import LONG_S

from edge.bundle import open_bundle, pack, save_tensors, sign
from edge.bundle.signing import Signer
from edge.core.cache import default_state
from edge.host import Runtime
from edge.settings import Commands, Mqtt, Settings, Trust, Update
from edge.telemetry import publish
from edge.telemetry.fleet.transfer import ChunkSource, Pace
from edge.telemetry.sender import Delivery

QUICK = Delivery(first_wait_s=0.02, longest_wait_s=0.1, timeout_s=LONG_S)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER, STRANGER = Signer(KEY), Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
CHUNK_BYTES = 1024
UNSIGNED = Trust(require="never")


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    path = tmp_path / "release.pem"
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(KEY.public_key().public_bytes(serialization.Encoding.PEM, form))
    return Trust((str(path),))


@pytest.fixture
def make(models: Path, tmp_path: Path) -> Callable[..., Path]:
    """Packs another version of the model that is served."""

    def make(version: str = "3", *, answer: float = 0.0, **fields: Any) -> Path:
        with open_bundle(models / "digits" / "1.edge") as bundle:
            manifest = msgspec.structs.replace(bundle.manifest, version=version, files=(), **fields)
        place = tmp_path / f"parts-{version}-{answer}" / "goldens" / "0"
        place.mkdir(parents=True, exist_ok=True)
        save_tensors(place / "inputs.npz", {"x": np.ones((1, 3), np.float32)})
        save_tensors(place / "expected.npz", {"y": np.full((1, 4), answer, np.float32)})
        folder = tmp_path / "sent"
        folder.mkdir(exist_ok=True)
        return pack(manifest, place.parent.parent, folder / f"{version}.edge")

    return make


@pytest.fixture
def device(broker: Any, runtime: Runtime, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts the telemetry of a device that takes updates."""
    started: list[Any] = []

    def start(trust: Trust = UNSIGNED, runtime: Runtime = runtime, **update: Any) -> Any:
        mqtt = Mqtt(broker.url, fleet="lab", device="one", outbox=str(tmp_path / "outbox"))
        rights = Commands(update=True, activate=True)
        settings = Settings(mqtt=mqtt, commands=rights, trust=trust, update=Update(**update))
        started.append(publish(runtime, settings, runtime=runtime, delivery=QUICK))
        return started[-1]

    yield start
    for publisher in started:
        publisher.close()


def by_url(path: Path, site: str) -> dict[str, Any]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    said = {"model": "digits", "version": path.stem, "sha256": digest}
    return {**said, "url": f"{site}/{path.name}"}


def send_chunks(operator: Any, path: Path, id_: str, **fields: Any) -> dict[str, Any]:
    """Bring a bundle in chunks, as long as the device asks; gives the end of the command."""
    with contextlib.closing(ChunkSource(path, CHUNK_BYTES)) as source:
        fields = {"model": "digits", "version": path.stem, **source.fields(), **fields}
        operator.order(f"update/{id_}", **fields)
        pace = Pace(CHUNK_BYTES)
        while True:
            answer = operator.answer(f"update/{id_}", "executing", "successful", "failed")
            if answer["status"] != "executing":
                return dict(answer)
            pace.heard(answer)
            while (index := pace.next()) is not None:
                chunk = source.chunk(index)
                operator.send(f"cmd/update/{id_}/chunk/{index}", chunk, is_retained=False)


def left(models: Path) -> list[str]:
    """What lies about of updates."""
    return sorted(path.name for path in (models / ".updates").iterdir())


def test_an_update_from_a_url_serves(
    device: Any, operator: Any, make: Any, site: str, runtime: Runtime, models: Path, trust: Trust
) -> None:
    device(trust)
    path = sign(make(), SIGNER)
    operator.order("update/a", **by_url(path, site))
    answer = operator.answer("update/a")
    assert answer["status"] == "successful", answer
    assert answer["result"]["is_active"] is True
    assert answer["result"]["signed_by"] == f"release ({SIGNER.fingerprint})"
    assert runtime.status_of("digits").version == "3"
    assert (models / "digits" / "3.edge").read_bytes() == path.read_bytes()
    assert left(models) == []


def test_an_update_in_chunks_waits_to_be_activated(
    device: Any, operator: Any, make: Any, runtime: Runtime, models: Path, trust: Trust
) -> None:
    device(trust)
    runtime.load_all()
    answer = send_chunks(operator, sign(make(), SIGNER), "a", activate=False)
    assert answer["status"] == "successful", answer
    assert (answer["result"]["is_active"], answer["result"]["state"]) == (False, "idle")
    assert runtime.status_of("digits").version == "2"
    operator.order("activate/b", model="digits", version="3")
    assert operator.answer("activate/b")["status"] == "successful"
    assert runtime.status_of("digits").version == "3"
    assert left(models) == []


@pytest.mark.parametrize(
    ("signer", "complaint"),
    [(None, "is not signed"), (STRANGER, "is not trusted here"), ("forged", "does not fit")],
)
def test_what_is_not_signed_by_who_is_trusted_is_refused(
    device: Any,
    operator: Any,
    make: Any,
    site: str,
    runtime: Runtime,
    models: Path,
    trust: Trust,
    signer: Any,
    complaint: str,
) -> None:
    device(trust)
    path = make()
    if signer == "forged":
        path = forged(path)
    elif signer:
        sign(path, signer)
    operator.order("update/a", **by_url(path, site))
    answer = operator.answer("update/a")
    assert (answer["status"], answer["kind"]) == ("failed", "untrusted")
    assert complaint in answer["reason"]
    assert runtime.versions("digits") == ["1", "2"]
    assert not (models / "digits" / "3.edge").exists()
    assert left(models) == []


def forged(path: Path) -> Path:
    """Signed in the name of the key that is trusted, by another one."""
    document = msgspec.json.decode(STRANGER.sign(b""))

    class Forger(Signer):
        def __init__(self) -> None:
            pass

        def sign(self, manifest: bytes) -> bytes:
            signed = msgspec.json.decode(STRANGER.sign(manifest))
            return msgspec.json.encode({**document, **signed, "key": SIGNER.fingerprint})

    return sign(path, Forger())


def test_nothing_is_fetched_where_no_key_could_prove_it(
    device: Any, operator: Any, make: Any, site: str, models: Path
) -> None:
    device(Trust())
    operator.order("update/a", **by_url(sign(make(), SIGNER), site))
    answer = operator.answer("update/a")
    assert answer["status"] == "failed"
    assert "no key" in answer["reason"]
    assert "[trust]" in answer["hint"]
    assert not (models / ".updates").exists()


def test_a_bundle_for_another_device_is_refused_with_what_differs(
    device: Any, operator: Any, make: Any, site: str, models: Path
) -> None:
    device()
    other = "raspberry-pi-5" if platform.machine() == "x86_64" else "intel-n100"
    operator.order("update/a", **by_url(make(profile=other), site))
    answer = operator.answer("update/a")
    assert (answer["status"], answer["kind"]) == ("failed", "unsupported")
    assert f"this machine is {platform.machine()}" in answer["reason"]
    assert left(models) == []


def test_what_does_not_answer_right_leaves_the_former_in_service(
    device: Any, operator: Any, make: Any, site: str, runtime: Runtime
) -> None:
    device()
    runtime.load_all()
    operator.order("update/a", **by_url(make(answer=5.0), site))
    answer = operator.answer("update/a")
    assert answer["status"] == "failed"
    assert runtime.status_of("digits").version == "2"
    assert runtime.status_of("digits", "3").state == "failed"


def test_a_bundle_that_is_not_what_the_command_says_is_refused(
    device: Any, operator: Any, make: Any, site: str, models: Path
) -> None:
    device()
    path = make("3").rename(models.parent / "sent" / "4.edge")
    operator.order("update/a", **by_url(path, site))
    answer = operator.answer("update/a")
    assert "holds digits 3, not digits 4" in answer["reason"]
    operator.order("update/b", **{**by_url(path, site), "sha256": "0" * 64})
    assert "not 0000" in operator.answer("update/b")["reason"]
    path.write_bytes(b"no bundle")
    operator.order("update/c", **by_url(path, site))
    assert "this is no bundle" in operator.answer("update/c")["reason"]
    assert left(models) == []


def test_a_version_that_is_there_is_not_fetched_again(
    device: Any, operator: Any, make: Any, runtime: Runtime, models: Path
) -> None:
    device()
    path = shutil.copy(models / "digits" / "2.edge", models.parent / "2.edge")
    operator.order("update/a", **by_url(Path(path), "http://127.0.0.1:1"))
    assert operator.answer("update/a")["status"] == "successful"
    assert runtime.status_of("digits").version == "2"
    operator.order("update/b", **by_url(make("2", answer=1.0), "http://127.0.0.1:1"))
    answer = operator.answer("update/b")
    assert (answer["kind"], "other contents" in answer["reason"]) == ("invalid", True)


def test_an_older_bundle_does_not_come_back_though_it_is_signed(
    device: Any, operator: Any, make: Any, site: str, models: Path, trust: Trust
) -> None:
    """Who listened to the update to 3 sends it again after that to 10, kept on the device or not,
    and after a restart of a device that has neither of them any more."""
    first = device(trust)
    old, new = sign(make("3"), SIGNER), sign(make("10"), SIGNER)
    for id_, path in (("a", old), ("b", new)):
        operator.order(f"update/{id_}", **by_url(path, site))
        assert operator.answer(f"update/{id_}")["status"] == "successful"
    assert is_refused_as_older(operator, "kept", by_url(old, site), "10")
    first.close()
    for path in (models / "digits" / "3.edge", models / "digits" / "10.edge"):
        path.unlink()
    with Runtime(models) as restarted:
        second = device(trust, runtime=restarted)
        assert is_refused_as_older(operator, "deleted", by_url(old, site), "10")
        assert restarted.versions("digits") == ["1", "2"]
        operator.order("update/again", **by_url(new, site))
        assert operator.answer("update/again")["status"] == "successful"
        assert restarted.status_of("digits").version == "10"
        second.close()


def is_refused_as_older(operator: Any, id_: str, said: dict[str, Any], newest: str) -> bool:
    operator.order(f"update/{id_}", **said)
    answer = operator.answer(f"update/{id_}")
    assert (answer["status"], answer["kind"]) == ("failed", "downgrade"), answer
    return f"3 is older than {newest}" in answer["reason"] and "downgrade" in answer["hint"]


def test_an_older_bundle_than_one_that_came_in_another_way_is_refused_unless_allowed(
    device: Any, operator: Any, make: Any, site: str, runtime: Runtime, models: Path
) -> None:
    first = device()
    path = make("1.5")
    operator.order("update/a", **by_url(path, site))
    answer = operator.answer("update/a")
    assert (answer["kind"], "older than 2" in answer["reason"]) == ("downgrade", True)
    assert not (models / ".updates").exists()  # nothing was fetched for it
    first.close()
    device(downgrade=True)
    operator.order("update/b", **by_url(path, site))
    assert operator.answer("update/b")["status"] == "successful"
    assert runtime.status_of("digits").version == "1.5"


def test_a_version_that_did_not_do_does_not_keep_an_older_one_away(
    device: Any, operator: Any, make: Any, site: str, runtime: Runtime
) -> None:
    device()
    operator.order("update/a", **by_url(make("4", answer=5.0), site))
    assert operator.answer("update/a")["status"] == "failed"
    operator.order("update/b", **by_url(make("3"), site))
    assert operator.answer("update/b")["status"] == "successful"
    assert runtime.status_of("digits").version == "3"


def test_nothing_is_taken_while_nobody_knows_what_is_old(
    device: Any, operator: Any, make: Any, site: str
) -> None:
    device()
    newest = default_state() / "updates.json"
    newest.parent.mkdir(parents=True, exist_ok=True)
    newest.write_text("nonsense")
    said = by_url(make(), site)
    operator.order("update/a", **said)
    answer = operator.answer("update/a")
    assert (answer["kind"], "updates.json" in answer["reason"]) == ("unavailable", True)
    newest.unlink()
    operator.order("update/b", **said)
    assert operator.answer("update/b")["status"] == "successful"


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "file:///etc/passwd"},
        {"url": ""},
        {"transfer": {"size_bytes": 5000, "chunk_bytes": 1024}},
        {"url": "", "transfer": {"size_bytes": 0, "chunk_bytes": 1024}},
        {"url": "", "transfer": {"size_bytes": 5000, "chunk_bytes": 1}},
        {"url": "", "transfer": {"size_bytes": 5000, "chunk_bytes": 1 << 40}},
        {"url": "", "transfer": {"size_bytes": 1 << 60, "chunk_bytes": 1024}},
        {"sha256": "../../etc/passwd"},
        {"model": "../digits"},
        {"version": "3/../../x"},
        {"activate": "yes"},
    ],
)
def test_a_command_that_makes_no_sense_is_refused(
    device: Any, operator: Any, wrong: dict[str, Any]
) -> None:
    device()
    said = {"model": "digits", "version": "3", "sha256": "0" * 64, "url": "http://127.0.0.1:1/x"}
    operator.order("update/a", **{**said, **wrong})
    answer = operator.answer("update/a")
    assert (answer["status"], answer["kind"]) == ("failed", "invalid")


@pytest.mark.parametrize("url", ["https://me:hunter2@127.0.0.1/x", "{site}/x?token=hunter2"])
def test_no_log_and_no_event_has_what_is_secret_in_a_url(
    device: Any, operator: Any, make: Any, site: str, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    caplog.set_level(logging.DEBUG)
    device()
    said = {"model": "digits", "version": "3", "sha256": "0" * 64}
    operator.order("update/a", url=url.format(site=site), **said)
    answer = operator.answer("update/a")
    assert (answer["status"], answer["kind"]) == ("failed", "invalid")
    event = operator.event(id="a", status="failed")
    assert event["reason"] == answer["reason"]
    assert "hunter2" not in f"{event}{caplog.text}"
    assert "127.0.0.1" in answer["reason"]


def test_an_update_ends_when_its_topic_is_cleared(
    device: Any, operator: Any, make: Any, site: str, models: Path
) -> None:
    device()
    path = make()
    with contextlib.closing(ChunkSource(path, CHUNK_BYTES)) as source:
        operator.order("update/a", model="digits", version="3", **source.fields())
    operator.answer("update/a", "executing")
    operator.send("cmd/update/a", b"")
    assert operator.event(id="a", kind="withdrawn")["status"] == "failed"
    operator.order("update/b", **by_url(path, site))  # it was not stood in its way
    assert operator.answer("update/b")["status"] == "successful"


def test_chunks_of_no_update_are_dropped(device: Any, operator: Any, make: Any) -> None:
    device()
    for path in ("a/chunk/0", "/chunk/0", "a/chunk/" + "9" * 500, "a/chunk/0/0", "a/b/c"):
        operator.send(f"cmd/update/{path}", b"x" * 5000, is_retained=False)
    assert send_chunks(operator, make(), "a")["status"] == "successful"


def test_chunks_come_in_any_order_twice_and_among_others(
    device: Any, operator: Any, make: Any, runtime: Runtime
) -> None:
    device()
    path = make()
    with contextlib.closing(ChunkSource(path, CHUNK_BYTES)) as source:
        operator.order("update/a", model="digits", version="3", **source.fields())
        operator.answer("update/a", "executing")
        for index in [*reversed(range(source.count)), *range(source.count)]:
            for place, data in ((index, source.chunk(index)), (index + 99, b"x"), (index, b"y")):
                operator.send(f"cmd/update/a/chunk/{place}", data, is_retained=False)
    assert operator.answer("update/a")["status"] == "successful"
    assert runtime.status_of("digits").version == "3"


def test_a_transfer_outlives_the_broker(
    device: Any, operator: Any, make: Any, broker: Any, runtime: Runtime
) -> None:
    """A broker that forgets all it had: the operator and the device tell it anew."""
    device()
    path = make()
    with contextlib.closing(ChunkSource(path, CHUNK_BYTES)) as source:
        operator.order("update/a", model="digits", version="3", **source.fields())
        operator.answer("update/a", "executing")
        operator.send("cmd/update/a/chunk/1", source.chunk(1), is_retained=False)
        asked = functools.partial(operator.answer, "update/a", "executing")
        while asked().get("received_bytes") != CHUNK_BYTES:
            pass
        broker.stop()
        broker.start()
        operator = type(operator)(broker.url)
        try:
            answer = send_chunks(operator, path, "a")
        finally:
            operator.close()
    assert answer["status"] == "successful"
    assert runtime.status_of("digits").version == "3"


def test_files_alone_have_no_place_for_an_update(
    broker: Any, operator: Any, models: Path, tmp_path: Path
) -> None:
    mqtt = Mqtt(broker.url, fleet="lab", device="one", outbox=str(tmp_path / "outbox"))
    settings = Settings(mqtt=mqtt, commands=Commands(update=True), trust=UNSIGNED)
    with Runtime(models / "digits" / "1.edge") as runtime:
        publisher = publish(runtime, settings, runtime=runtime, delivery=QUICK)
        said = {"model": "digits", "version": "3", "sha256": "0" * 64}
        operator.order("update/a", **said, url="http://127.0.0.1:1/x")
        answer = operator.answer("update/a")
        publisher.close(LONG_S)
    assert (answer["kind"], "only files" in answer["reason"]) == ("unsupported", True)


def test_a_folder_that_is_not_served_takes_no_update(device: Any, operator: Any) -> None:
    device(folder="/nowhere")
    said = {"model": "digits", "version": "3", "sha256": "0" * 64}
    operator.order("update/a", **said, url="http://127.0.0.1:1/x")
    assert "/nowhere is not served" in operator.answer("update/a")["reason"]
