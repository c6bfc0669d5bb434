"""The no-op models of the benchmark over Starlette: KServe binary requests, written by hand."""

from __future__ import annotations

import json

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

OUTPUTS = {"noop-64b": (1, 16), "noop-602kb": (1, 1000)}


async def infer(request: Request) -> Response:
    name = request.path_params["name"]
    length = int(request.headers["inference-header-content-length"])
    body = await request.body()
    (tensor,) = json.loads(body[:length])["inputs"]
    np.frombuffer(body, np.float32, offset=length).reshape(tensor["shape"])
    raw = np.zeros(OUTPUTS[name], np.float32).tobytes()
    described = {
        "name": "y",
        "datatype": "FP32",
        "shape": OUTPUTS[name],
        "parameters": {"binary_data_size": len(raw)},
    }
    answer = {"model_name": name, "model_version": "1", "outputs": [described]}
    text = json.dumps(answer).encode()
    return Response(
        text + raw,
        media_type="application/octet-stream",
        headers={"Inference-Header-Content-Length": str(len(text))},
    )


async def ready(request: Request) -> Response:
    return Response()


app = Starlette(
    routes=[
        Route("/v2/models/{name}/infer", infer, methods=["POST"]),
        Route("/v2/health/ready", ready),
    ]
)
