"""Pipelines and their steps in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.server.metrics import family, stages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge.host.pipelines import PipelineStatus, StepStatus


def pipeline_families(pipelines: list[PipelineStatus]) -> Iterator[Iterator[str]]:
    """Nothing where no pipeline is declared."""
    if not pipelines:
        return
    yield family(
        "edge_pipeline_state",
        "gauge",
        "1 for the state of the pipeline: ready, or that of the model which keeps it from it.",
        [("", {**_name(one), "state": one.state}, 1) for one in pipelines],
    )
    yield family(
        "edge_pipeline_runs_total",
        "counter",
        "Runs that succeeded.",
        [("", _name(one), one.statistics.success_count) for one in pipelines],
    )
    yield family(
        "edge_pipeline_failures_total",
        "counter",
        "Runs that failed, at whatever step.",
        [("", _name(one), one.statistics.failure_count) for one in pipelines],
    )
    yield family(
        "edge_pipeline_refused_total",
        "counter",
        "Requests that never ran: too many waited, or it was too late when their turn came.",
        [
            ("", {**_name(one), "reason": reason}, count)
            for one in pipelines
            for reason, count in one.statistics.refused.items()
        ],
    )
    yield family(
        "edge_pipeline_stage_seconds",
        "summary",
        "Time per run: in the queue, in all its steps, and on the server's way in and out.",
        [sample for one in pipelines for sample in stages(_name(one), one.statistics)],
    )
    yield from _step_families([(one, *step) for one in pipelines for step in one.steps.items()])


def _step_families(steps: list[tuple[PipelineStatus, str, StepStatus]]) -> Iterator[Iterator[str]]:
    named = [({**_name(one), "step": name, "model": step.model}, step) for one, name, step in steps]
    yield family(
        "edge_pipeline_step_runs_total",
        "counter",
        "Runs of a step that succeeded, with all boxes of a picture as one.",
        [("", labels, step.statistics.success_count) for labels, step in named],
    )
    yield family(
        "edge_pipeline_step_failures_total",
        "counter",
        "Runs of a step that failed.",
        [("", labels, step.statistics.failure_count) for labels, step in named],
    )
    yield family(
        "edge_pipeline_step_skipped_total",
        "counter",
        "Runs in which a step had nothing to do: no boxes, or its condition did not hold.",
        [("", labels, step.skipped) for labels, step in named],
    )
    yield family(
        "edge_pipeline_step_stage_seconds",
        "summary",
        "Time per run of a step: preparing, in its model with the wait for it, and decoding.",
        [sample for labels, step in named for sample in stages(labels, step.statistics)],
    )


def _name(pipeline: PipelineStatus) -> dict[str, str]:
    return {"pipeline": pipeline.name}
