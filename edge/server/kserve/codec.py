"""Inference requests to feeds, and outputs to answers, for one model."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.errors import InputError, UnsupportedError
from edge.server.kserve import messages
from edge.server.kserve.datatypes import (
    TEXT,
    bytes_from_tensor,
    datatype_of,
    decode_text,
    dtype_of,
    numpy_dtype,
    tensor_from_bytes,
    text_array,
)
from edge.server.kserve.json_tensors import json_from_tensor, tensor_from_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.core.tensor import Array, TensorSpec

HEADER_LENGTH = "Inference-Header-Content-Length"

MALFORMED = (msgspec.DecodeError, ValueError, RecursionError)
"""What msgspec raises on JSON that is none; ValueError is UTF-8, RecursionError is nesting."""

_decode = msgspec.json.Decoder(messages.InferRequest).decode
_encode = msgspec.json.Encoder().encode


class Call(msgspec.Struct, frozen=True):
    """What a request asks for: feeds, the outputs to answer with, each binary or not, and when."""

    id: str
    feeds: dict[str, Any]
    outputs: tuple[tuple[str, bool], ...]
    priority: int = 0
    timeout_us: int = 0


class Answer(msgspec.Struct, frozen=True):
    """``parts`` are JSON and what follows it; ``json_bytes`` is None where nothing does."""

    parts: list[bytes | memoryview]
    json_bytes: int | None


class Codec:
    """Reads requests for one model and writes its answers."""

    def __init__(
        self,
        name: str,
        version: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        self._name = name
        self._version = version
        self._inputs = {spec.name: (spec, datatype_of(spec.dtype)) for spec in inputs}
        self._binary_outputs = tuple((spec.name, True) for spec in outputs)
        self._json_outputs = tuple((spec.name, False) for spec in outputs)

    def decode(self, body: Array, json_bytes: int | None) -> Call:
        """Read a request.

        Args:
            body: uint8, one axis; feeds are views of it where they can be.
            json_bytes: How much of it is JSON, raw tensors follow; None: all. 0: no JSON at all,
                the body is the one input of the model.
        Raises:
            InputError: It is damaged or does not fit the model.
            UnsupportedError: It uses an extension of the protocol that is not here.
        """
        if json_bytes == 0:
            return Call("", self._raw_feed(body), self._binary_outputs)
        if json_bytes is not None and json_bytes > len(body):
            raise InputError(f"{HEADER_LENGTH} is {json_bytes}, the body has {len(body)} bytes")
        try:
            request = _decode(body[:json_bytes].data)
        except MALFORMED as error:
            raise InputError(f"not an inference request: {error}") from error
        feeds = self._feeds(request, None if json_bytes is None else body[json_bytes:])
        outputs, when = self._outputs(request), request.parameters
        if when is None:
            return Call(request.id, feeds, outputs)
        return Call(request.id, feeds, outputs, when.priority, when.timeout)

    def encode(
        self, call: Call, outputs: Mapping[str, Array], mark: messages.CacheMark | None = None
    ) -> Answer:
        """Write an answer with the outputs that were asked for, in that order.

        Raises:
            InputError: One is asked for as JSON and holds what JSON can't.
        """
        tensors: list[messages.OutputTensor] = []
        parts: list[bytes | memoryview] = [b""]
        for name, is_binary in call.outputs:
            array = outputs[name]
            datatype = datatype_of(dtype_of(array.dtype))
            if is_binary:
                raw = bytes_from_tensor(array)
                size = messages.BinarySize(len(raw))
                tensors.append(messages.OutputTensor(name, datatype, array.shape, size))
                parts.append(raw)
            else:
                data = json_from_tensor(name, array)
                tensors.append(messages.OutputTensor(name, datatype, array.shape, None, data))
        name, version = self._name, self._version
        parts[0] = _encode(messages.InferResponse(name, version, tensors, call.id, mark))
        return Answer(parts, len(parts[0]) if len(parts) > 1 else None)

    def _feeds(self, request: messages.InferRequest, raw: Array | None) -> dict[str, Array]:
        if request.parameters is not None and request.parameters.sequence_id:
            raise UnsupportedError("sequences are not served here")
        feeds: dict[str, Array] = {}
        offset = 0
        for tensor in request.inputs:
            spec = self._spec(tensor, feeds)
            size = _binary_size(tensor)
            if size is None:
                feeds[tensor.name] = tensor_from_json(
                    tensor.name, spec.dtype, tensor.shape, tensor.data
                )
                continue
            if raw is None:
                raise InputError(
                    f"input {tensor.name!r} is binary, but the header {HEADER_LENGTH} is missing"
                )
            if offset + size > len(raw):
                raise InputError(
                    f"input {tensor.name!r} has a binary_data_size of {size}, "
                    f"but the body has only {len(raw) - offset} bytes left"
                )
            data = raw[offset : offset + size]
            feeds[tensor.name] = tensor_from_bytes(tensor.name, spec.dtype, tensor.shape, data)
            offset += size
        if raw is not None and offset != len(raw):
            raise InputError(f"the body has {len(raw) - offset} bytes after its last input")
        return feeds

    def _spec(self, tensor: messages.InputTensor, feeds: dict[str, Array]) -> TensorSpec:
        entry = self._inputs.get(tensor.name)
        if entry is None:
            raise InputError(
                f"{self._name} has no input {tensor.name!r}",
                hint=f"it takes {', '.join(self._inputs)}",
            )
        if tensor.name in feeds:
            raise InputError(f"input {tensor.name!r} is given twice")
        spec, datatype = entry
        if tensor.datatype != datatype:
            raise InputError(
                f"input {tensor.name!r} of {self._name} is {datatype}, got {tensor.datatype}"
            )
        return spec

    def _outputs(self, request: messages.InferRequest) -> tuple[tuple[str, bool], ...]:
        parameters = request.parameters
        is_binary = parameters is not None and parameters.binary_data_output
        if not request.outputs:
            return self._binary_outputs if is_binary else self._json_outputs
        wanted: dict[str, bool] = {}
        known = {name for name, _ in self._json_outputs}
        for output in request.outputs:
            if output.name not in known:
                raise InputError(
                    f"{self._name} has no output {output.name!r}",
                    hint=f"it has {', '.join(sorted(known))}",
                )
            if output.name in wanted:
                raise InputError(f"output {output.name!r} is asked for twice")
            wanted[output.name] = _wants_binary(output, default=is_binary)
        return tuple(wanted.items())

    def _raw_feed(self, body: Array) -> dict[str, Array]:
        if len(self._inputs) != 1:
            raise InputError(
                f"a body without JSON is for a model of one input, {self._name} takes "
                f"{', '.join(self._inputs)}"
            )
        ((spec, _),) = self._inputs.values()
        if spec.dtype == TEXT:  # the body is the one element, without its length
            text = text_array([decode_text(spec.name, 0, body.tobytes())])
            return {spec.name: text.reshape((1,) * len(spec.shape))}
        return {spec.name: tensor_from_bytes(spec.name, spec.dtype, _shape(spec, len(body)), body)}


def _shape(spec: TensorSpec, size_bytes: int) -> tuple[int, ...]:
    """The shape of a raw body: its length gives the one dimension that may be dynamic."""
    fixed = prod(dim for dim in spec.shape if isinstance(dim, int))
    if len([dim for dim in spec.shape if isinstance(dim, str)]) > 1:
        raise InputError(
            f"input {spec.name!r} has several dynamic dimensions: {spec.shape_text}",
            hint="send it with JSON that says its shape",
        )
    unit_bytes = fixed * numpy_dtype(spec.dtype).itemsize
    free = size_bytes // unit_bytes if unit_bytes else 0
    return tuple(dim if isinstance(dim, int) else free for dim in spec.shape)


def _binary_size(tensor: messages.InputTensor) -> int | None:
    parameters = tensor.parameters
    size = parameters.binary_data_size if parameters is not None else None
    if parameters is not None and parameters.shared_memory_region is not None:
        raise UnsupportedError("shared memory is not served here", hint="send the tensor itself")
    has_data = len(memoryview(tensor.data)) > 0
    if has_data and size is not None:
        raise InputError(f"input {tensor.name!r} has both data and binary_data_size")
    if not has_data and size is None:
        raise InputError(f"input {tensor.name!r} has neither data nor binary_data_size")
    return size


def _wants_binary(output: messages.RequestedOutput, *, default: bool) -> bool:
    parameters = output.parameters
    if parameters is None:
        return default
    if parameters.shared_memory_region is not None:
        raise UnsupportedError("shared memory is not served here", hint="take the output itself")
    if parameters.classification:
        raise UnsupportedError("the classification extension is not served here")
    return default if parameters.binary_data is None else parameters.binary_data
