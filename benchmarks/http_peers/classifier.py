"""The one session that all peers of `serving.py` run, with the settings it gives them."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime

MAX_BATCH = 8
MAX_DELAY_S = 0.001


def open_session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
    )


class Classifier:
    """``images`` float32 (batch, 3, 224, 224) -> float32 (batch, classes)."""

    def __init__(self) -> None:
        self._session = open_session()
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: images})[0]
