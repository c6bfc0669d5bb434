"""What is said under ``status``: numbers that a reader can count by."""

from __future__ import annotations

from edge.telemetry.envelope import Sealer, decode
from edge.telemetry.presence import Presence


def test_a_will_that_no_broker_has_taken_is_that_of_the_next_try() -> None:
    presence = Presence("status", Sealer())
    assert presence.will() == presence.will()


def test_online_names_the_number_of_the_will_and_the_next_connection_has_another() -> None:
    presence = Presence("status", Sealer())
    first = decode(presence.will().payload)
    assert presence.online() == {"state": "online", "will_seq": first.seq}
    second = decode(presence.will().payload)
    assert second.seq == first.seq + 1
    assert second.metrics() == {"state": "offline", "reason": "connection lost"}
