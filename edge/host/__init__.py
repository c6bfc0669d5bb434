"""The runtime on the device: choose a variant, load it, run it, count what it costs."""

from edge.host.model import GoldenResult as GoldenResult
from edge.host.model import Model as Model
from edge.host.model import load as load
from edge.host.runtime import ModelStatus as ModelStatus
from edge.host.runtime import Runtime as Runtime
from edge.host.statistics import Snapshot as Snapshot
from edge.host.statistics import Statistics as Statistics
