"""How it stands with the brokers, and how few lines of the log that takes."""

from __future__ import annotations

import logging

import pytest

from edge.telemetry.address import addresses
from edge.telemetry.backoff import Backoff
from edge.telemetry.rotation import Rotation
from edge.telemetry.standing import Standing


@pytest.fixture
def rotation() -> Rotation:
    return Rotation(addresses("mqtt://first,mqtt://second"), Backoff(1.0, 60.0))


def test_the_log_is_told_of_changes_and_not_of_tries(
    rotation: Rotation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge.telemetry")
    standing = Standing(rotation)
    standing.connected()
    for _ in range(3):
        for _broker in rotation.brokers:
            rotation.ended("nobody there", 0.0)
        standing.failed(is_refused=False)
    assert (standing.state, standing.reason) == (
        "unreachable",
        "mqtt://first:1883: nobody there; mqtt://second:1883: nobody there",
    )
    standing.connected()
    standing.connected()
    assert (standing.state, standing.reason) == ("connected", "")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "telemetry goes to mqtt://first:1883"),
        (
            "WARNING",
            "no telemetry: broker mqtt://first:1883, mqtt://second:1883 is unreachable:"
            " mqtt://first:1883: nobody there; mqtt://second:1883: nobody there",
        ),
        ("WARNING", "telemetry goes to mqtt://first:1883 again"),
    ]


def test_that_another_broker_serves_is_told_with_why_the_first_does_not(
    rotation: Rotation, caplog: pytest.LogCaptureFixture
) -> None:
    rotation.ended("nobody there", 0.0)
    Standing(rotation).connected()
    (record,) = caplog.records
    assert record.message == (
        "telemetry goes to mqtt://second:1883, as another is not there:"
        " mqtt://first:1883: nobody there"
    )


def test_a_refusal_is_told_as_such(rotation: Rotation, caplog: pytest.LogCaptureFixture) -> None:
    rotation.ended("Not authorized", 0.0)
    standing = Standing(rotation)
    standing.failed(is_refused=True)
    assert standing.state == "refused"
    assert "refuses us: mqtt://first:1883: Not authorized" in caplog.text
