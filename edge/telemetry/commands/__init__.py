"""What an operator may have a device do, over MQTT: commands, and what is desired of it."""

from edge.telemetry.commands.steering import Steering as Steering
from edge.telemetry.commands.steering import steer as steer
