"""What models hold of the memory budget, and how they come and go, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge.server.metrics import family

if TYPE_CHECKING:
    from edge.host import ModelStatus
    from edge.host.residency import MemoryUse


def memory_families(use: MemoryUse, models: list[ModelStatus]) -> Iterator[Iterator[str]]:
    yield family(
        "edge_memory_budget_bytes",
        "gauge",
        "What loaded models may hold together; 0 for any number.",
        [("", {}, use.budget_bytes)],
    )
    yield family(
        "edge_memory_used_bytes",
        "gauge",
        "What loaded models hold, or are about to.",
        [("", {}, use.used_bytes)],
    )
    known = [({"model": model.name, "version": model.version}, model) for model in models]
    yield family(
        "edge_model_memory_bytes",
        "gauge",
        "What the model takes when it is loaded; measured here, or estimated from its files.",
        [
            ("", {**name, "measured": str(model.memory.is_measured).lower()}, size)
            for name, model in known
            if model.memory is not None
            for size in [model.memory.resident_bytes]
        ],
    )
    yield family(
        "edge_model_loads_total",
        "counter",
        "How often the model was loaded.",
        [("", name, model.loads) for name, model in known],
    )
    yield family(
        "edge_model_evictions_total",
        "counter",
        "How often the model was unloaded: for room, as it was idle, or by request.",
        [
            ("", {**name, "reason": reason}, count)
            for name, model in known
            for reason, count in model.evictions.items()
        ],
    )
