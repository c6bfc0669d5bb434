"""What a run found, as plain data: what is known of a box stands in the box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from edge.host.pipelines.feeding import Key
    from edge.host.pipelines.graph import Graph, Output
    from edge.host.pipelines.work import Found

Results = dict[str, dict["Key", "Found"]]


def answer(graph: Graph, found: Results) -> dict[str, Any]:
    """Name of an output -> boxes, labels, a mask or a tensor; None where a step was left out.

    A box is a dict that also holds the outputs of those steps that looked at it.
    """
    return {output.name: _said(output, (), graph, found) for output in outermost(graph)}


def outermost(graph: Graph) -> list[Output]:
    """The outputs that stand in no box."""
    return [output for output in graph.outputs if not graph.steps[output.step].path]


def _said(output: Output, key: Key, graph: Graph, found: Results) -> Any:
    this = found[output.step].get(key)
    if this is None:
        return None
    if output.tensor:
        return this.tensors[output.tensor]
    said = msgspec.to_builtins(this.prediction)
    if graph.steps[output.step].finds != "boxes":
        return list(said) if isinstance(said, tuple) else said
    path = (*graph.steps[output.step].path, output.step)
    inner = [other for other in graph.outputs if graph.steps[other.step].path == path]
    return [
        {**box, **{other.name: _said(other, (*key, number), graph, found) for other in inner}}
        for number, box in enumerate(said)
    ]
