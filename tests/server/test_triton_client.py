"""NVIDIA's own client, unchanged, against a running server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.http")
from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: E402

NUMERIC = [
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(f"float{bits}" for bits in (16, 32, 64)),
]
WITHOUT_JSON = {"float16"}  # the client refuses to write it as JSON


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    client = triton.InferenceServerClient(server.netloc)
    yield client
    client.close()


def values(dtype: str) -> np.ndarray[Any, Any]:
    """The extremes of a type, in rows of two."""
    if dtype == "bool":
        return np.array([[True, False], [False, True]])
    kind = np.dtype(dtype)
    limits: Any = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    return np.array([[limits.min, limits.max], [0, 1]], kind)


def tensor(name: str, array: np.ndarray[Any, Any], *, binary: bool = True) -> Any:
    given = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return given.set_data_from_numpy(array, binary_data=binary)


@pytest.mark.parametrize("dtype", NUMERIC)
def test_a_binary_tensor_comes_back_as_it_went(client: Any, dtype: str) -> None:
    sent = values(dtype)

    result = client.infer(f"identity-{dtype}", [tensor("x", sent)])

    received = result.as_numpy("y")
    assert received.dtype == sent.dtype
    np.testing.assert_array_equal(received, sent)


@pytest.mark.parametrize("dtype", sorted(set(NUMERIC) - WITHOUT_JSON))
def test_a_json_tensor_comes_back_as_it_went(client: Any, dtype: str) -> None:
    sent = values(dtype)
    wanted = triton.InferRequestedOutput("y", binary_data=False)

    result = client.infer(f"identity-{dtype}", [tensor("x", sent, binary=False)], outputs=[wanted])

    (output,) = result.get_response()["outputs"]
    assert "data" in output
    np.testing.assert_array_equal(result.as_numpy("y"), sent)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_text_comes_back_as_it_went(client: Any, binary: bool) -> None:
    sent = np.array([["", "a"], ["Grüße", "\x00 \n" * 100]], object)
    wanted = triton.InferRequestedOutput("y", binary_data=binary)

    result = client.infer(
        "identity-string", [tensor("x", sent, binary=binary)], outputs=[wanted]
    ).as_numpy("y")

    assert [text if isinstance(text, str) else text.decode() for text in result.ravel()] == list(
        sent.ravel()
    )


def test_a_tensor_without_elements_comes_back(client: Any) -> None:
    result = client.infer("identity-float32", [tensor("x", np.empty((0, 2), np.float32))])

    assert result.as_numpy("y").shape == (0, 2)


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip", "deflate"])
def test_bodies_may_be_compressed(client: Any, request_coding: Any, response_coding: Any) -> None:
    sent = np.arange(2000, dtype=np.float32).reshape(1000, 2)

    result = client.infer(
        "identity-float32",
        [tensor("x", sent)],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=response_coding,
    )

    np.testing.assert_array_equal(result.as_numpy("y"), sent)


def test_inputs_are_told_apart_and_outputs_come_as_asked_for(client: Any) -> None:
    a, b = np.arange(16, dtype=np.int32)[None], np.full((1, 16), 3, np.int32)
    wanted = [
        triton.InferRequestedOutput("OUTPUT1", binary_data=True),
        triton.InferRequestedOutput("OUTPUT0", binary_data=False),
    ]

    result = client.infer(
        "simple",
        [tensor("INPUT1", b, binary=False), tensor("INPUT0", a)],
        outputs=wanted,
        request_id="seven",
    )

    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), a + b)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), a - b)
    answer = result.get_response()
    assert [output["name"] for output in answer["outputs"]] == ["OUTPUT1", "OUTPUT0"]
    assert answer["id"] == "seven"
    assert (answer["model_name"], answer["model_version"]) == ("simple", "3")


def test_only_the_outputs_that_are_asked_for_come(client: Any) -> None:
    ones = np.ones((1, 16), np.int32)
    wanted = [triton.InferRequestedOutput("OUTPUT1")]

    result = client.infer(
        "simple", [tensor("INPUT0", ones), tensor("INPUT1", ones)], outputs=wanted
    )

    assert result.as_numpy("OUTPUT0") is None
    assert not result.as_numpy("OUTPUT1").any()


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.is_model_ready("simple", "3")
    assert not client.is_model_ready("simple", "4")
    assert not client.is_model_ready("absent")
    server = client.get_server_metadata()
    assert server["name"] == "edge"
    assert set(server["extensions"]) == {
        "binary_tensor_data",
        "model_configuration",
        "model_repository",
        "statistics",
    }
    model = client.get_model_metadata("identity-float32")
    assert model["versions"] == ["3"]
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert model["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]
    assert client.get_model_metadata("identity-string")["inputs"][0]["datatype"] == "BYTES"


def test_the_configuration_says_types_and_dimensions(client: Any) -> None:
    config = client.get_model_config("identity-string")

    assert config["name"] == "identity-string"
    assert config["max_batch_size"] == 0
    assert config["input"] == [{"name": "x", "data_type": "TYPE_STRING", "dims": [-1, 2]}]


def test_the_index_lists_every_model(client: Any, models: Path) -> None:
    index = client.get_model_repository_index()

    assert {"name": "simple", "version": "3", "state": "READY", "reason": ""} in index
    assert sorted(entry["name"] for entry in index) == sorted(p.stem for p in models.glob("*.edge"))


def test_statistics_count_what_succeeded_and_what_failed(client: Any) -> None:
    def counts() -> tuple[int, int, dict[str, Any]]:
        (model,) = client.get_inference_statistics("identity-int8")["model_stats"]
        stats = model["inference_stats"]
        assert model["inference_count"] == stats["success"]["count"]
        return stats["success"]["count"], stats["fail"]["count"], stats

    succeeded, failed, _ = counts()
    client.infer("identity-int8", [tensor("x", values("int8"))])
    with pytest.raises(InferenceServerException):
        client.infer("identity-int8", [tensor("x", np.zeros((1, 3), np.int8))])

    now_succeeded, now_failed, stats = counts()
    assert (now_succeeded, now_failed) == (succeeded + 1, failed + 1)
    for stage in ("compute_input", "compute_infer", "compute_output"):
        assert stats[stage]["ns"] > 0, stage
    everything = client.get_inference_statistics()["model_stats"]
    assert {"simple", "identity-int8"} <= {model["name"] for model in everything}


@pytest.mark.parametrize(
    ("model", "given", "status", "message"),
    [
        (("absent", ""), ("x", np.zeros((1, 2), np.float32)), "404", "no model named 'absent'"),
        (("identity-int8", "9"), ("x", np.zeros((1, 2), np.int8)), "404", "no version '9'"),
        (("identity-int8", ""), ("z", np.zeros((1, 2), np.int8)), "400", "no input 'z'"),
        (("identity-int8", ""), ("x", np.zeros((1, 2), np.int16)), "400", "INT8"),
        (("identity-int8", ""), ("x", np.zeros((1, 3), np.int8)), "400", "must have shape"),
        (("identity-int8", ""), ("x", np.zeros((2,), np.int8)), "400", "must have shape"),
    ],
    ids=["model", "version", "name", "dtype", "dimension", "rank"],
)
def test_a_wrong_request_hears_what_is_wrong(
    client: Any, model: tuple[str, str], given: tuple[str, Any], status: str, message: str
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer(model[0], [tensor(*given)], model[1])

    assert refused.value.status() == status
    assert message in refused.value.message()


def test_an_unknown_output_or_a_missing_input_is_refused(client: Any) -> None:
    ones = tensor("INPUT0", np.ones((1, 16), np.int32))
    with pytest.raises(InferenceServerException, match="INPUT1"):
        client.infer("simple", [ones])
    with pytest.raises(InferenceServerException, match="no output 'z'"):
        client.infer(
            "identity-int8",
            [tensor("x", values("int8"))],
            outputs=[triton.InferRequestedOutput("z")],
        )


def test_extensions_that_are_not_here_are_refused(client: Any) -> None:
    given = triton.InferInput("x", [1, 2], "INT8")
    given.set_shared_memory("region", 2)
    with pytest.raises(InferenceServerException) as refused:
        client.infer("identity-int8", [given])
    assert refused.value.status() == "501"
    with pytest.raises(InferenceServerException) as refused:
        client.infer(
            "identity-float32",
            [tensor("x", values("float32"))],
            outputs=[triton.InferRequestedOutput("y", class_count=2)],
        )
    assert refused.value.status() == "501"


def test_many_requests_at_once_get_their_own_answers(server: Any) -> None:
    client = triton.InferenceServerClient(server.netloc, concurrency=8)
    arrays = [np.full((1, 2), number, np.int32) for number in range(64)]

    waiting = [client.async_infer("identity-int32", [tensor("x", array)]) for array in arrays]

    for array, result in zip(arrays, waiting, strict=True):
        np.testing.assert_array_equal(result.get_result().as_numpy("y"), array)
    client.close()
