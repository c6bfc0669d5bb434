"""Names of topics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import SettingsError
from edge.telemetry.topics import Topics, matches, patterns, split

NAMES = st.text(min_size=1).filter(lambda name: name.isprintable() and not set(name) & set("+#/"))


@given(NAMES, NAMES)
def test_topic_tells_its_fleet_and_device(fleet: str, device: str) -> None:
    topic = Topics(fleet, device).of("tele", "device")
    assert topic == f"edge/v1/{fleet}/{device}/tele/device"
    assert split(topic) == (fleet, device, "tele/device")


@pytest.mark.parametrize("name", ["", "a+b", "#", "a/b", "a\0b", "a\nb", "a\ud800"])
def test_name_that_can_not_be_in_a_topic_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="device name"):
        Topics("fleet", name)
    with pytest.raises(SettingsError, match="fleet name") as caught:
        Topics(name, "device")
    assert "EDGE_MQTT_FLEET" in caught.value.hint


def test_name_of_a_file_can_not_leave_its_topic() -> None:
    assert Topics("f", "d").of("model", "a/+#b") == "edge/v1/f/d/model/a___b"


def test_patterns_take_any_or_one() -> None:
    assert patterns() == ["edge/v1/+/+/+", "edge/v1/+/+/+/+"]
    assert patterns("+", "d", "cmd/+/+")[1:] == ["edge/v1/+/d/+/+", "edge/v1/+/d/cmd/+/+"]
    with pytest.raises(SettingsError):
        patterns(fleet="#")


def test_who_watches_is_not_sent_the_bundles_of_others() -> None:
    chunk = Topics("f", "d").of("cmd", "update", "7", "chunk", "0")
    assert not any(matches(pattern, chunk) for pattern in patterns("+", "+", "cmd/+/+"))
    assert any(matches(pattern, Topics("f", "d").of("tele", "device")) for pattern in patterns())


@pytest.mark.parametrize("topic", ["", "other", "edge/v1/f", "edge/v1/f/d", "x/edge/v1/f/d/t"])
def test_topic_of_others_is_told_apart(topic: str) -> None:
    assert split(topic) == ("", "", "")


@pytest.mark.parametrize(
    ("wanted", "topic", "is_match"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/b", "a/b/c", False),
        ("a/+/c", "a/b/c", True),
        ("a/+", "a", False),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "b/a", False),
    ],
)
def test_subscription_matches_as_a_broker_does(wanted: str, topic: str, is_match: bool) -> None:
    assert matches(wanted, topic) == is_match
