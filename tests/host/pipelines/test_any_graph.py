"""Whatever graph is declared: every step runs once, after what it needs, on the right tensors."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import color_models
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import LONG_S

from edge.core.pipelines import PipelineSpec, StepSpec
from edge.host.pipelines import make_pipelines

ADDER = color_models.adder()


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, StepSpec]:
    """Adders in any order, each of what steps before it in another order gave, or of inputs."""
    names = [f"s{number}" for number in range(draw(st.integers(1, 8)))]
    steps: dict[str, StepSpec] = {}
    for number, name in enumerate(names):
        sources = ["input.p", "input.q", *(f"{other}.y" for other in names[:number])]
        a, b = draw(st.sampled_from(sources)), draw(st.sampled_from(sources))
        steps[name] = StepSpec("adder", inputs={"a": a, "b": b})
    return {name: steps[name] for name in draw(st.permutations(names))}


def expected(steps: dict[str, StepSpec], inputs: dict[str, Any], source: str) -> Any:
    step, _, name = source.partition(".")
    if step == "input":
        return inputs[name]
    given = steps[step].inputs
    return expected(steps, inputs, given["a"]) + expected(steps, inputs, given["b"])


@settings(max_examples=40)
@given(graphs(), st.booleans())
def test_any_graph_gives_what_its_steps_say(steps: dict[str, StepSpec], on_threads: bool) -> None:
    runs: list[int] = []

    def add(feeds: dict[str, Any]) -> dict[str, Any]:
        runs.append(1)
        return {"y": feeds["a"] + feeds["b"]}

    with ThreadPoolExecutor(3) as threads:

        def submit(feeds: dict[str, Any], **_: int) -> Future[dict[str, Any]]:
            return threads.submit(add, feeds)

        model: Any = SimpleNamespace(
            submit=submit, infer=add, decode=None, is_held_back=False, manifest=ADDER
        )
        made = make_pipelines({"g": PipelineSpec(steps)}, {"adder": ADDER}, {}, lambda _: model)
        pipeline = made["g"]
        inputs = {
            name: np.array([[number, 1, -number]], np.float32)
            for number, name in enumerate("pq", 2)
            if name in pipeline.graph.inputs
        }
        answer = pipeline.submit(inputs).result(LONG_S) if on_threads else pipeline.run(inputs)
        pipeline.close()
    assert len(runs) == len(steps)
    assert set(answer) == {f"{name}.y" for name in steps}
    for name, array in answer.items():
        assert np.array_equal(array, expected(steps, inputs, name))
