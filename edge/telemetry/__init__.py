"""What the device tells an operator over MQTT: its state, its models, what they cost."""

from edge.telemetry.publisher import Publisher as Publisher
from edge.telemetry.publisher import publish as publish
