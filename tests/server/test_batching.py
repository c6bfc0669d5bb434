"""Many clients at once against `edge serve` with batches switched on in edge.toml."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

CLIENTS, REQUESTS = 8, 25
SETTINGS = """
[serve]
concurrency = 1

[models.sum]
max_batch = 8
max_delay_us = 2000
queue = 64

[models.simple]
max_batch = 4
"""


@pytest.fixture(scope="module")
def live(
    start: Callable[..., Any],
    models: Path,
    row_sum: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    folder = tmp_path_factory.mktemp("batching")
    (folder / "edge.toml").write_text(SETTINGS)
    live = start(row_sum, models / "simple.edge", cwd=folder)
    live.wait_until_ready()
    return live


def row(*values: float) -> dict[str, Any]:
    shape = [1, len(values)]
    return {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": list(values)}]}


def test_each_client_gets_its_own_answer_and_a_wrong_one_spoils_nobodys(live: Any) -> None:
    def ask(client: int) -> None:
        for number in range(REQUESTS):
            answer = live.infer("sum", row(client * 1000, number))
            assert answer.json["outputs"][0]["data"] == [client * 1000 + number]
            if client == 0:
                assert "must have shape" in live.infer("sum", row(1, 2, 3)).error

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, range(CLIENTS)))
    text = live.get("/metrics").body.decode()
    name = 'model="sum",version="3"'
    (executions,) = re.findall(rf"^edge_model_batch_requests_count{{{name}}} (\d+)", text, re.M)
    assert f"edge_model_inferences_total{{{name}}} {CLIENTS * REQUESTS}\n" in text
    assert f"edge_model_failures_total{{{name}}} {REQUESTS}\n" in text
    assert int(executions) < CLIENTS * REQUESTS
    stats = live.get("/v2/models/sum/stats").json["model_stats"][0]
    sizes = {one["batch_size"]: one["compute_infer"]["count"] for one in stats["batch_stats"]}
    assert sum(size * count for size, count in sizes.items()) == CLIENTS * REQUESTS
    assert stats["execution_count"] == int(executions) == sum(sizes.values())


def test_a_model_that_can_not_be_batched_is_told_and_served(live: Any) -> None:
    assert any("simple runs requests one by one: it was made for" in line for line in live.lines)
    names, ones = ("INPUT0", "INPUT1"), [1] * 16
    inputs = [{"name": n, "shape": [1, 16], "datatype": "INT32", "data": ones} for n in names]
    assert live.infer("simple", {"inputs": inputs}).json["outputs"][0]["data"] == [2] * 16
