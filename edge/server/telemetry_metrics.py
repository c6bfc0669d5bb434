"""The connection to the MQTT broker, and what waits for it, in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.server.metrics import family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge.telemetry.outbox import Status
    from edge.telemetry.sender import SenderStatus


def telemetry_families(status: SenderStatus | None) -> Iterator[Iterator[str]]:
    """Nothing where there is no broker to report to."""
    if status is None:
        return
    yield family(
        "edge_mqtt_state",
        "gauge",
        "1 for the state that the connection to the broker is in.",
        [("", {"state": status.state}, 1)],
    )
    yield family(
        "edge_mqtt_broker_info",
        "gauge",
        "The broker of the connection, or the one that is tried, and why there is no connection.",
        [("", {"broker": status.broker, "reason": status.reason}, 1)],
    )
    yield family(
        "edge_mqtt_connections_total",
        "counter",
        "Connections that a broker has accepted.",
        [("", {}, status.connection_count)],
    )
    yield family(
        "edge_mqtt_in_flight_messages",
        "gauge",
        "Messages that wait for the broker's answer.",
        [("", {}, status.in_flight_count)],
    )
    yield from _outbox_families(status.outbox)


def _outbox_families(outbox: Status) -> Iterator[Iterator[str]]:
    yield family(
        "edge_outbox_durable",
        "gauge",
        "1 if what waits survives the end of the process.",
        [("", {}, int(outbox.is_durable))],
    )
    yield family(
        "edge_outbox_failure_info",
        "gauge",
        "Why the disk can not be written now.",
        [("", {"reason": outbox.failure}, 1)] if outbox.failure else [],
    )
    yield family(
        "edge_outbox_waiting_bytes",
        "gauge",
        "What waits for the broker, on disk and in memory.",
        [("", {}, outbox.waiting_bytes)],
    )
    counters = {
        "dropped_messages": ("Messages that were given up; a gap tells.", outbox.dropped_count),
        "written_messages": ("Messages that were written to the disk.", outbox.record_count),
        "written_bytes": ("Bytes that were written to the disk.", outbox.wear.bytes),
        "page_bytes": ("Bytes of the pages that syncs had to write.", outbox.wear.page_bytes),
        "syncs": ("Times that the disk was told to keep what was written.", outbox.wear.syncs),
    }
    for name, (text, count) in counters.items():
        yield family(f"edge_outbox_{name}_total", "counter", text, [("", {}, count)])
