"""Energy and money, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge.server.metrics import Sample, family, known

if TYPE_CHECKING:
    from edge.host.metering import CostReport, ModelCost
    from edge.host.metering.money import Price


def cost_families(report: CostReport | None) -> Iterator[Iterator[str]]:
    """Nothing where nobody meters; no joules where no sensor tells."""
    if report is None:
        return
    basis = report.basis
    yield family(
        "edge_energy_source_info",
        "gauge",
        "What joules rest on: a counter, power integrated over time, or only an estimate.",
        known(1, source=basis.source, rail=basis.rail, why=basis.why),
    )
    counters = {
        "metered_seconds": ("Time metered.", report.seconds),
        "energy_measured_seconds": (
            "Time metered of which the energy is known.",
            report.measured_s,
        ),
        "energy_joules": ("Energy of the device.", report.joules),
        "energy_idle_joules": ("Energy of the device that is no model's.", report.idle_joules),
    }
    for name, (text, value) in counters.items():
        yield family(f"edge_{name}_total", "counter", text, known(value))
    yield family(
        "edge_energy_error_joules",
        "gauge",
        "Standard error of the energy, as power is only read now and then.",
        known(basis.error_joules),
    )
    yield family(
        "edge_energy_idle_watts",
        "gauge",
        "Power while nothing runs, and how that is known.",
        known(basis.idle_watts, source=basis.idle_source),
    )
    money = {"currency": report.currency}
    yield family(
        "edge_cost_total",
        "counter",
        "Money for the device's energy, and for its wear.",
        list(_parts({}, report.spent, money)),
    )
    yield from _model_families(report.models, money)


def _model_families(
    models: tuple[ModelCost, ...], money: dict[str, str]
) -> Iterator[Iterator[str]]:
    named = [({"model": model.name, "version": model.version}, model) for model in models]
    yield family(
        "edge_model_device_seconds_total",
        "counter",
        "How long the model had the device.",
        [("", name, model.busy_s) for name, model in named],
    )
    yield family(
        "edge_model_energy_joules_total",
        "counter",
        "Energy that the model used, idle power while it ran included.",
        [("", name, model.joules) for name, model in named if model.joules is not None],
    )
    yield family(
        "edge_model_joules_per_inference",
        "gauge",
        "Energy of an inference since the start, with and without idle power while it ran.",
        [
            ("", {**name, "idle": idle}, joules)
            for name, model in named
            for idle, joules in (
                ("included", model.joules_each),
                ("subtracted", model.above_idle_each),
            )
            if joules is not None
        ],
    )
    yield family(
        "edge_model_cost_per_million",
        "gauge",
        "Money for a million inferences, as busy as the device was so far and if it never waited.",
        [
            sample
            for name, model in named
            for load, price in (("now", model.per_million), ("full", model.per_million_full))
            for sample in _parts({**name, "load": load}, price, money)
        ],
    )
    yield family(
        "edge_model_cache_saved_joules",
        "gauge",
        "What the engine would have taken for the answers of the response cache, at its mean.",
        [
            ("", name, model.recalled_joules)
            for name, model in named
            if model.recalled and model.recalled_joules is not None
        ],
    )
    yield family(
        "edge_model_batch_saved_seconds",
        "gauge",
        "Time in the engine that batches took less than their requests alone would have.",
        [("", name, model.batching.seconds) for name, model in named if model.batching],
    )


def _parts(labels: dict[str, str], price: Price, money: dict[str, str]) -> Iterator[Sample]:
    for part, amount in (("energy", price.energy), ("device", price.device)):
        if amount is not None:
            yield "", {**labels, "part": part, **money}, amount
