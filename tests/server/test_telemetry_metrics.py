from __future__ import annotations

import msgspec

from edge.server import metrics
from edge.server.http.message import Traffic
from edge.server.telemetry_metrics import telemetry_families
from edge.telemetry.outbox import Status, Wear
from edge.telemetry.sender import SenderStatus

STATUS = SenderStatus(
    state="unreachable",
    reason='no "answer"',
    broker="mqtts://broker.lan:8883",
    connection_count=3,
    in_flight_count=8,
    outbox=Status(True, "", 4096, 7, 120, Wear(31_000, 40_960, 10)),
)


def rendered(status: SenderStatus | None) -> set[str]:
    text = metrics.render([], Traffic({}, 0), tuple(telemetry_families(status)))
    return {line for line in text.splitlines() if not line.startswith("#")}


def test_connection_and_what_waits_for_it_are_told() -> None:
    assert rendered(STATUS) >= {
        'edge_mqtt_state{state="unreachable"} 1',
        'edge_mqtt_broker_info{broker="mqtts://broker.lan:8883",reason="no \\"answer\\""} 1',
        "edge_mqtt_connections_total 3",
        "edge_mqtt_in_flight_messages 8",
        "edge_outbox_durable 1",
        "edge_outbox_waiting_bytes 4096",
        "edge_outbox_dropped_messages_total 7",
        "edge_outbox_written_messages_total 120",
        "edge_outbox_written_bytes_total 31000",
        "edge_outbox_page_bytes_total 40960",
        "edge_outbox_syncs_total 10",
    }


def test_disk_that_fails_is_told_with_its_reason() -> None:
    assert not any("failure" in line for line in rendered(STATUS))
    outbox = msgspec.structs.replace(STATUS.outbox, is_durable=False, failure="No space left")
    lines = rendered(msgspec.structs.replace(STATUS, outbox=outbox))
    assert 'edge_outbox_failure_info{reason="No space left"} 1' in lines
    assert "edge_outbox_durable 0" in lines


def test_without_a_broker_there_is_nothing_to_tell() -> None:
    assert not any("mqtt" in line or "outbox" in line for line in rendered(None))
