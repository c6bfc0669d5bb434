"""What one writes first: FastAPI and a session; `/json` takes numbers, `/binary` the raw tensor."""

from __future__ import annotations

import numpy as np
from classifier import Classifier
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

SHAPE = (1, 3, 224, 224)
app = FastAPI()
classify = Classifier()


class Tensor(BaseModel):
    data: list[float]


@app.post("/json")
def json_tensor(tensor: Tensor) -> dict[str, list[float]]:
    images = np.array(tensor.data, np.float32).reshape(SHAPE)
    return {"data": classify(images)[0].tolist()}


@app.post("/binary")
async def binary_tensor(request: Request) -> Response:
    images = np.frombuffer(await request.body(), np.float32).reshape(SHAPE)
    return Response(classify(images).tobytes(), media_type="application/octet-stream")


@app.get("/health")
def health() -> dict[str, str]:
    return {}
