"""Keeps messages until they are acknowledged; knows nothing of MQTT, or of what they say."""

from edge.telemetry.outbox.files import DiskFiles as DiskFiles
from edge.telemetry.outbox.files import Files as Files
from edge.telemetry.outbox.files import Wear as Wear
from edge.telemetry.outbox.ledger import Bounds as Bounds
from edge.telemetry.outbox.ledger import Gap as Gap
from edge.telemetry.outbox.outbox import Outbox as Outbox
from edge.telemetry.outbox.outbox import Status as Status
from edge.telemetry.outbox.record import Record as Record
from edge.telemetry.outbox.stream import Kind as Kind
from edge.telemetry.outbox.worker import Worker as Worker
