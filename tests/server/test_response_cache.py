"""`edge serve` with a response cache: what it remembers is marked in the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge.core.tensor import TensorSpec

tritonclient = pytest.importorskip("tritonclient.http")
onnx = pytest.importorskip("onnx")

SIDE = 32
SETTINGS = """
[models.brightness]
cache_bytes = 1_000_000
cache = "perceptual"
cache_difference = 0.05
cache_age_s = 60
"""


@pytest.fixture(scope="module")
def live(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.server.conftest import bundle, graph

    folder = tmp_path_factory.mktemp("cached")
    (folder / "edge.toml").write_text(SETTINGS)
    kind, shape = onnx.TensorProto.FLOAT, [1, 3, SIDE, SIDE]
    x = onnx.helper.make_tensor_value_info("x", kind, shape)
    y = onnx.helper.make_tensor_value_info("y", kind, [1, 3, 1, 1])
    model = graph([onnx.helper.make_node("GlobalAveragePool", ["x"], ["y"])], [x], [y])
    specs = (TensorSpec("x", "float32", (1, 3, SIDE, SIDE)),)
    answers = (TensorSpec("y", "float32", (1, 3, 1, 1)),)
    live = start(bundle(folder, "brightness", specs, answers, model), cwd=folder)
    live.wait_until_ready()
    return live


def test_a_client_is_told_what_was_not_inferred_for_its_request(live: Any) -> None:
    random = np.random.default_rng(0)
    frame = random.uniform(0, 1, (1, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    frame = frame.astype(np.float32)
    with tritonclient.InferenceServerClient(live.netloc) as client:

        def ask(array: Any) -> tuple[Any, Any]:
            given = tritonclient.InferInput("x", list(array.shape), "FP32")
            given.set_data_from_numpy(array)
            result = client.infer("brightness", [given])
            return result.get_response().get("parameters"), result.as_numpy("y")

        mark, first = ask(frame)
        assert mark is None
        mark, again = ask(frame)
        assert mark == {"edge_cache": "exact"}
        np.testing.assert_array_equal(again, first)
        mark, near = ask(frame + np.float32(0.01))
        assert mark["edge_cache"] == "perceptual"
        assert 0 < mark["difference"] <= 0.05
        np.testing.assert_array_equal(near, first)
        mark, other = ask(frame + np.float32(0.5))
        assert mark is None
        np.testing.assert_allclose(other, first + 0.5, atol=1e-5)
    text = live.get("/metrics").body.decode()
    for result, count in (("hit", 1), ("perceptual", 1), ("miss", 2)):
        name = f'model="brightness",version="3",result="{result}"'
        assert f"edge_model_cache_requests_total{{{name}}} {count}\n" in text
    stats = live.get("/v2/models/brightness/stats").json["model_stats"][0]["inference_stats"]
    assert (stats["cache_hit"]["count"], stats["cache_miss"]["count"]) == (2, 2)
