"""Models that work together: declared in ``edge.toml``, checked at the start, run as a graph."""

from edge.host.pipelines.pipeline import Pipeline as Pipeline
from edge.host.pipelines.pipeline import PipelineStatus as PipelineStatus
from edge.host.pipelines.pipeline import StepStatus as StepStatus
from edge.host.pipelines.pipeline import make_pipelines as make_pipelines
