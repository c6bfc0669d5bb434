"""The messages of KServe v2 and of Triton's statistics and repository extensions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

NotNegative = Annotated[int, msgspec.Meta(ge=0)]


class InputParameters(msgspec.Struct, frozen=True):
    binary_data_size: NotNegative | None = None
    shared_memory_region: str | None = None


class InputTensor(msgspec.Struct, frozen=True):
    """``data`` stays raw until the model says what its elements are."""

    name: str
    shape: tuple[NotNegative, ...]
    datatype: str
    parameters: InputParameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class OutputParameters(msgspec.Struct, frozen=True):
    binary_data: bool | None = None
    classification: int = 0
    shared_memory_region: str | None = None


class RequestedOutput(msgspec.Struct, frozen=True):
    name: str
    parameters: OutputParameters | None = None


class RequestParameters(msgspec.Struct, frozen=True):
    """``priority`` 1 is the highest, 0 the default; ``timeout`` is in µs, 0 for none."""

    binary_data_output: bool = False
    sequence_id: int | str = 0
    priority: NotNegative = 0
    timeout: NotNegative = 0


class InferRequest(msgspec.Struct, frozen=True):
    inputs: tuple[InputTensor, ...]
    id: str = ""
    parameters: RequestParameters | None = None
    outputs: tuple[RequestedOutput, ...] | None = None


class BinarySize(msgspec.Struct, frozen=True):
    binary_data_size: int


class OutputTensor(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: BinarySize | None = None
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class CacheMark(msgspec.Struct, frozen=True, omit_defaults=True):
    """That an answer was remembered: ``exact`` for the same inputs, else ``perceptual``.

    ``difference`` is that from the frame that was inferred, as a share of its contrast.
    """

    edge_cache: Literal["exact", "perceptual"]
    difference: float | None = None


class InferResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str = ""
    parameters: CacheMark | None = None


class ServerMetadata(msgspec.Struct, frozen=True):
    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(msgspec.Struct, frozen=True):
    """A dynamic dimension is -1."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(msgspec.Struct, frozen=True):
    name: str
    data_type: str
    dims: tuple[int, ...]


class ModelConfig(msgspec.Struct, frozen=True):
    """``max_batch_size`` 0 says that shapes already contain the batch axis."""

    name: str
    platform: str
    backend: str
    input: list[TensorConfig]
    output: list[TensorConfig]
    max_batch_size: int = 0


class Duration(msgspec.Struct, frozen=True):
    count: int = 0
    ns: int = 0


class InferStatistics(msgspec.Struct, frozen=True):
    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()


class BatchStatistics(msgspec.Struct, frozen=True):
    """Executions that answered ``batch_size`` requests."""

    batch_size: int
    compute_infer: Duration
    compute_input: Duration = Duration()
    compute_output: Duration = Duration()


class ModelStatistics(msgspec.Struct, frozen=True):
    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: tuple[BatchStatistics, ...] = ()


class StatisticsAnswer(msgspec.Struct, frozen=True):
    model_stats: list[ModelStatistics]


class IndexRequest(msgspec.Struct, frozen=True):
    ready: bool = False


class ControlRequest(msgspec.Struct, frozen=True):
    parameters: dict[str, Any] = {}


class IndexEntry(msgspec.Struct, frozen=True):
    name: str
    version: str
    state: str
    reason: str
