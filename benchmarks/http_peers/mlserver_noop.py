"""The no-op models of the benchmark as an MLServer runtime; its HTTP takes no binary tensors."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec
from mlserver.types import InferenceRequest, InferenceResponse

SHAPES = {"noop-64b": ((1, 16), (1, 16)), "noop-602kb": ((1, 3, 224, 224), (1, 1000))}


class Noop(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given, answered = SHAPES[self.name]
        (raw,) = Base64Codec.decode_input(payload.inputs[0])
        np.frombuffer(raw, np.float32).reshape(given)
        output = np.zeros(answered, np.float32).tobytes()
        encoded = Base64Codec.encode_output("y", [output], use_bytes=False)
        return InferenceResponse(model_name=self.name, model_version="1", outputs=[encoded])
