from __future__ import annotations

from typing import Any

import pytest

from edge.telemetry.board import Board, DeviceBoard
from edge.telemetry.envelope import Sealer
from edge.telemetry.fleet.rollout import Counts, Target
from edge.telemetry.fleet.sights import sight_of
from edge.telemetry.watcher import Arrival

NOW_S = 1000.0
TARGET = Target("digits", "2", digest="new", sha256="f" * 64, size_bytes=1000)
SERVED = {"name": "digits", "version": "2", "digest": "new", "state": "ready"}
OTHERS = {"name": "digits", "version": "1", "digest": "old", "state": "ready"}


def device_of(**messages: dict[str, Any]) -> DeviceBoard:
    """What came under these paths, with two underscores for a slash."""
    board = Board()
    for name, metrics in messages.items():
        path = name.replace("__", "/")
        envelope = Sealer().seal(metrics)
        topic = f"edge/v1/plant/d/{path}"
        board.add(Arrival(topic, "plant", "d", path, envelope, metrics, False, NOW_S))
    return board.device("plant", "d")


def test_device_that_serves_the_bundle_with_its_counts() -> None:
    rows = [{**OTHERS, "success_count": 9}, {**SERVED, "success_count": 90, "failure_count": 7}]
    device = device_of(
        status={"state": "online"}, model__digits=SERVED, tele__model={"models": rows}
    )
    sight = sight_of(device, TARGET, {}, NOW_S)
    assert sight.is_online
    assert sight.serves(TARGET)
    assert sight.counts == Counts(90, 7)
    assert not sight_of(device, TARGET, {}, NOW_S + 3600).is_online


def test_device_that_took_it_back_says_why() -> None:
    gone = {"name": "digits", "version": "2", "to": "failed", "why": "5 of 9 requests failed"}
    device = device_of(model__digits=OTHERS, event__model_state=gone)
    sight = sight_of(device, TARGET, {}, NOW_S)
    assert not sight.serves(TARGET)
    assert (sight.version, sight.why) == ("1", "5 of 9 requests failed")


def test_version_that_failed_does_not_serve() -> None:
    failed = {**SERVED, "state": "failed", "why": "no memory"}
    sight = sight_of(device_of(model__digits=failed), TARGET, {}, NOW_S)
    assert not sight.serves(TARGET)
    assert sight.why == "no memory"


@pytest.mark.parametrize(
    ("messages", "kind", "text"),
    [
        ({"tele__health": {"models": [{**SERVED, "latency": "slow"}]}}, "latency", "slow"),
        ({"tele__health": {"models": [{**SERVED, "drift": "drifted"}]}}, "drift", "drift"),
        (
            {"model__digits": {**SERVED, "is_fallback": True, "placement": "CPU"}},
            "fallback",
            "falls back to CPU",
        ),
    ],
)
def test_ailments_are_those_of_the_model_that_are_not_tolerated(
    messages: dict[str, Any], kind: str, text: str
) -> None:
    device = device_of(**{"model__digits": SERVED, **messages})
    assert sight_of(device, TARGET, {}, NOW_S).ailments == (text,)
    assert sight_of(device, TARGET, {}, NOW_S, {"other"}).ailments == ()
    assert sight_of(device, TARGET, {}, NOW_S, {kind}).ailments == (text,)
    device.served["faces"] = {**SERVED, "name": "faces", "is_fallback": True}
    assert sight_of(device, TARGET, {}, NOW_S).ailments == (text,)
