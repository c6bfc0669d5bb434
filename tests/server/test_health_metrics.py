"""What Prometheus is told of models' health."""

from __future__ import annotations

from edge.host.health.status import Accuracy, Drift, Latency, ModelHealth
from edge.server.health_metrics import health_families

DRIFT = Drift("drifted", window=200, indices={"input.x.mean": 0.5})
LATENCY = Latency("slow", reference="here", reference_p50_ms=2.0, reference_p99_ms=3.0)


def rendered(model: ModelHealth) -> list[str]:
    lines = "".join(line for family in health_families([model]) for line in family).splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_each_aspect_has_its_state_and_its_figures() -> None:
    accuracy = Accuracy("low", metric="top1", count=99, value=50.0)
    assert rendered(ModelHealth("m", "1", DRIFT, LATENCY, accuracy)) == [
        'edge_model_health{model="m",version="1",aspect="drift",state="drifted"} 1',
        'edge_model_health{model="m",version="1",aspect="latency",state="slow"} 1',
        'edge_model_health{model="m",version="1",aspect="accuracy",state="low"} 1',
        'edge_model_drift_index{model="m",version="1",statistic="input.x.mean"} 0.5',
        'edge_model_reference_seconds{model="m",version="1",reference="here",quantile="0.5"} 0.002',
        'edge_model_reference_seconds{model="m",version="1",reference="here",quantile="0.99"} '
        "0.003",
        'edge_model_accuracy_ratio{model="m",version="1",metric="top1"} 0.5',
        'edge_model_accuracy_labels{model="m",version="1"} 99',
    ]


def test_what_is_not_known_has_no_figure() -> None:
    model = ModelHealth("m", "1", Drift("no-reference"), Latency("gathering"), Accuracy("off"))
    assert len(rendered(model)) == 3
