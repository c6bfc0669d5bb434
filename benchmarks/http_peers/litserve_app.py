"""The no-op models of the benchmark over LitServe: base64 in JSON, as it takes JSON or forms."""

from __future__ import annotations

import base64
import sys

import litserve
import numpy as np

OUTPUTS = {"noop-64b": (1, 16), "noop-602kb": (1, 1000)}


class Noop(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: dict) -> tuple[np.ndarray, str]:
        array = np.frombuffer(base64.b64decode(request["data"]), np.float32)
        return array.reshape(request["shape"]), request["model"]

    def predict(self, given: tuple[np.ndarray, str]) -> np.ndarray:
        return np.zeros(OUTPUTS[given[1]], np.float32)

    def encode_response(self, output: np.ndarray) -> dict:
        return {"data": base64.b64encode(output).decode(), "shape": output.shape}


if __name__ == "__main__":
    server = litserve.LitServer(Noop(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
