"""Whether models still see, say and take what they did when converted, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from edge.server.metrics import family

if TYPE_CHECKING:
    from edge.host.health.status import ModelHealth


def health_families(models: Iterable[ModelHealth]) -> Iterator[Iterator[str]]:
    known = [({"model": model.name, "version": model.version}, model) for model in models]
    yield family(
        "edge_model_health",
        "gauge",
        "1 for the state of each aspect: drift, latency, accuracy.",
        [
            ("", {**name, "aspect": aspect, "state": state}, 1)
            for name, model in known
            for aspect, state in model.states.items()
        ],
    )
    yield family(
        "edge_model_drift_index",
        "gauge",
        "Population stability index against the bundle's reference, less what chance makes.",
        [
            ("", {**name, "statistic": statistic}, index)
            for name, model in known
            for statistic, index in model.drift.indices.items()
        ],
    )
    yield family(
        "edge_model_reference_seconds",
        "gauge",
        "What an inference took in the bundle's measurement, or here at first.",
        [
            ("", {**name, "reference": model.latency.reference, "quantile": quantile}, ms / 1e3)
            for name, model in known
            if model.latency.reference
            for quantile, ms in (
                ("0.5", model.latency.reference_p50_ms),
                ("0.99", model.latency.reference_p99_ms),
            )
        ],
    )
    yield family(
        "edge_model_accuracy_ratio",
        "gauge",
        "How often the model was right, by the last labels that came back.",
        [
            ("", {**name, "metric": model.accuracy.metric}, value / 100.0)
            for name, model in known
            for value in [model.accuracy.value]
            if value is not None
        ],
    )
    yield family(
        "edge_model_accuracy_labels",
        "gauge",
        "How many labels that is by.",
        [
            ("", name, model.accuracy.count)
            for name, model in known
            if model.accuracy.state != "off"
        ],
    )
