"""The share of a build that is done, from the phases within phases that TensorRT tells of."""

from __future__ import annotations

from typing import Any

from edge.core.build import Progress


class Phases:
    """Adds up nested phases; the share never falls."""

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._parents: dict[str, str] = {}
        self._steps: dict[str, int] = {}
        self._done: dict[str, float] = {}
        self._share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        if parent and parent in self._steps:
            self._parents[name] = parent
        self._steps[name] = max(1, steps)
        self._done[name] = 0.0
        self._tell(name)

    def step(self, name: str, step: int) -> None:
        if name in self._steps:
            self._done[name] = float(step + 1)
            self._tell(name)

    def finish(self, name: str) -> None:
        if name in self._steps:
            self._done[name] = float(self._steps[name])
            self._tell(name)

    def _tell(self, name: str) -> None:
        """A phase is one step of its parent's: part of it done is part of that step."""
        share = self._done[name] / self._steps[name]
        inner = name
        while (parent := self._parents.get(inner)) is not None:
            share = (self._done[parent] + min(share, 1.0)) / self._steps[parent]
            inner = parent
        self._share = max(self._share, min(share, 1.0))
        self._report(name, self._share)


def monitor(trt: Any, report: Progress) -> Any:
    """What ``IBuilderConfig.progress_monitor`` takes; None where TensorRT has none (before 8.6)."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases = Phases(report)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._phases.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._phases.finish(phase_name)

    return Monitor()
