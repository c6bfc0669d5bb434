"""A classifier as a model of Triton's Python backend: `1/model.py` of a repository."""

from __future__ import annotations

import numpy as np
import triton_python_backend_utils as pb_utils
from classifier import Classifier


class TritonPythonModel:
    def initialize(self, args: dict) -> None:
        self.classify = Classifier()

    def execute(self, requests: list) -> list:
        images = [pb_utils.get_input_tensor_by_name(one, "x").as_numpy() for one in requests]
        together = images[0] if len(images) == 1 else np.concatenate(images)
        outputs = np.split(self.classify(together), np.cumsum([len(one) for one in images])[:-1])
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("y", np.ascontiguousarray(output))])
            for output in outputs
        ]
