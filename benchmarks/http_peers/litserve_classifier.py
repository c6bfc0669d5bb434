"""A classifier over LitServe with its batching; base64 in JSON, as it takes JSON or forms."""

from __future__ import annotations

import base64
import sys

import litserve
import numpy as np
from classifier import MAX_BATCH, MAX_DELAY_S, Classifier


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.classify = Classifier()

    def decode_request(self, request: dict) -> np.ndarray:
        return np.frombuffer(base64.b64decode(request["data"]), np.float32).reshape(3, 224, 224)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.classify(images)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict:
        return {"data": base64.b64encode(output).decode()}


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_BATCH, batch_timeout=MAX_DELAY_S)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error"
    )
