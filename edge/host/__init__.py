"""The on-device runtime: picks a variant for this machine, loads it, runs it, and counts."""

from edge.host.activation import Probation as Probation
from edge.host.ahead import Outcome as Outcome
from edge.host.ahead import build_ahead as build_ahead
from edge.host.building import BuildProgress as BuildProgress
from edge.host.choice import Fallback as Fallback
from edge.host.choice import Wish as Wish
from edge.host.goldens import GoldenResult as GoldenResult
from edge.host.governor import Strain as Strain
from edge.host.loading import load as load
from edge.host.loading import load_bundle as load_bundle
from edge.host.model import Model as Model
from edge.host.restraint import LEVELS as LEVELS
from edge.host.restraint import Limits as Limits
from edge.host.runtime import Runtime as Runtime
from edge.host.statistics import STAGES as STAGES
from edge.host.statistics import Histogram as Histogram
from edge.host.statistics import Snapshot as Snapshot
from edge.host.statistics import Statistics as Statistics
from edge.host.status import ModelStatus as ModelStatus
