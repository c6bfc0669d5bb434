"""What inferences cost: energy, shared out to the models that used it, and money."""

from __future__ import annotations

from edge.host.metering.meter import CostMeter as CostMeter
from edge.host.metering.report import CostReport as CostReport
from edge.host.metering.report import ModelCost as ModelCost
