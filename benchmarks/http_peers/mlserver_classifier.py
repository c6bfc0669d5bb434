"""A classifier as an MLServer runtime; base64, as its HTTP takes no binary tensors.

With adaptive batching the requests of a batch come as one, whose elements are theirs.
"""

from __future__ import annotations

import numpy as np
from classifier import Classifier
from mlserver import MLModel
from mlserver.codecs import Base64Codec
from mlserver.types import InferenceRequest, InferenceResponse

SHAPE = (3, 224, 224)


class Runtime(MLModel):
    async def load(self) -> bool:
        self.classify = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        raw = Base64Codec.decode_input(payload.inputs[0])
        images = np.stack([np.frombuffer(one, np.float32).reshape(SHAPE) for one in raw])
        outputs = [row.tobytes() for row in self.classify(images)]
        encoded = Base64Codec.encode_output("y", outputs, use_bytes=False)
        return InferenceResponse(model_name=self.name, model_version="1", outputs=[encoded])
