from __future__ import annotations

import re

import msgspec

from edge.core.contracts import Placement, WorkerStatus
from edge.core.errors import EngineError
from edge.host import ModelStatus, Statistics
from edge.host.response_cache import CacheCounts
from edge.server import metrics
from edge.server.http.message import Traffic

SAMPLE = re.compile(
    r'[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\.)*"(?:,[a-z_]+="(?:[^"\\\n]|\\.)*")*\})? [0-9.e+-]+'
)
NASTY = 'said "no"\\ and\nleft'


def loaded() -> ModelStatus:
    statistics = Statistics()
    statistics.success(2_000_000, 1_000_000)
    statistics.success(2_000_000)
    statistics.transfer(3_000, 4_000)
    statistics.success(2_000_000)
    statistics.batch(2, 2_000_000)
    statistics.refused("full")
    statistics.failure(5, EngineError("broken"))
    return ModelStatus(
        "digits",
        "1",
        "ready",
        engine="onnxruntime",
        variant="v",
        precision="int8",
        is_fallback=True,
        placement=Placement("cuda", "cpu", {"cpu": 1.0}, "int8", is_fallback=True, reason=NASTY),
        statistics=msgspec.structs.replace(
            statistics.snapshot(), cache=CacheCounts(hits=5, misses=2, entries=2, bytes=640)
        ),
    )


def rendered() -> str:
    models = [loaded(), ModelStatus("broken", "?", "failed", reason="no")]
    return metrics.render(models, Traffic({200: 7, 404: 1}, 3))


def test_every_line_is_a_comment_or_a_sample() -> None:
    lines = rendered().splitlines()
    assert all(line.startswith("# ") or SAMPLE.fullmatch(line) for line in lines), lines
    assert rendered().endswith("\n")


def test_every_family_is_described_once_and_named_edge() -> None:
    types = re.findall(r"^# TYPE (\S+) (\S+)$", rendered(), re.MULTILINE)
    names = [name for name, _ in types]
    assert len(names) == len(set(names))
    assert all(name.startswith("edge_") for name in names)
    assert all(name.endswith("_total") for name, kind in types if kind == "counter")


def test_counts_times_and_states_are_those_of_the_models() -> None:
    text = rendered()
    assert 'edge_model_inferences_total{model="digits",version="1"} 3\n' in text
    assert 'edge_model_failures_total{model="digits",version="1"} 1\n' in text
    assert 'edge_model_state{model="broken",version="?",state="failed"} 1\n' in text
    assert 'edge_model_stage_seconds_sum{model="digits",version="1",stage="infer"} 0.006\n' in text
    assert 'edge_model_stage_seconds_count{model="digits",version="1",stage="queue"} 1\n' in text
    assert 'edge_http_responses_total{code="404"} 1\n' in text
    assert "edge_http_connections 3\n" in text
    median = re.search(r'stage="infer",quantile="0.5"\} (\S+)', text)
    assert median is not None
    assert abs(float(median[1]) - 0.002) < 0.002 / 8


def test_batches_and_refusals_are_counted() -> None:
    text, name = rendered(), 'model="digits",version="1"'
    assert f'edge_model_refused_total{{{name},reason="full"}} 1\n' in text
    assert f'edge_model_refused_total{{{name},reason="late"}} 0\n' in text
    counts = re.findall(r'edge_model_batch_requests_bucket\{.*le="([^"]+)"\} (\d+)', text)
    assert counts == [("1", "1"), *((str(1 << n), "2") for n in range(1, 7)), ("+Inf", "2")]
    assert f"edge_model_batch_requests_sum{{{name}}} 3\n" in text
    assert f"edge_model_batch_requests_count{{{name}}} 2\n" in text


def test_what_the_cache_knew_is_counted() -> None:
    text = rendered()
    requests = 'edge_model_cache_requests_total{model="digits",version="1",result='
    assert f'{requests}"hit"}} 5\n' in text
    assert f'{requests}"miss"}} 2\n' in text
    assert 'edge_model_cache_bytes{model="digits",version="1"} 640\n' in text


def test_a_worker_is_told_of_where_there_is_one() -> None:
    apart = msgspec.structs.replace(loaded(), worker=WorkerStatus(4711, 3, 1024))
    text = metrics.render([apart, ModelStatus("inside", "1", "ready")], Traffic({}, 0))
    labels = '{model="digits",version="1"}'
    assert f"edge_model_worker_restarts_total{labels} 3\n" in text
    assert f"edge_model_worker_resident_bytes{labels} 1024\n" in text
    assert text.count("edge_model_worker_restarts_total{") == 1


def test_a_fallback_and_its_reason_are_in_the_open_and_escaped() -> None:
    line = next(line for line in rendered().splitlines() if line.startswith("edge_model_placement"))
    assert 'requested="cuda",actual="cpu",is_fallback="true"' in line
    assert r'reason="said \"no\"\\ and\nleft"' in line


def test_the_process_tells_its_memory_and_time() -> None:
    values = dict(
        re.findall(r"^(edge_process_\w+) (\S+)$", rendered(), re.MULTILINE),
    )
    assert float(values["edge_process_resident_memory_bytes"]) > 1e6
    assert float(values["edge_process_cpu_seconds_total"]) > 0
