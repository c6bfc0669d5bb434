"""``snapshot``: the next frame of a model, with what it made of it; none is kept before.

Picture and result go to ``snapshot/<id>`` as a message that no broker retains; a result that is
short is in the answer too.
"""

from __future__ import annotations

import base64
import hashlib
import io
import time
import zipfile
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from edge.core.errors import EdgeError, InputError, UnavailableError
from edge.telemetry.commands.verb import Context, Progress, Result, Verb

if TYPE_CHECKING:
    from edge.core.tensor import Array
    from edge.host import Model
    from edge.host.capture import Frame

_MOST_FRAME_BYTES = 128 * 1024 * 1024
_MOST_VALUES = 64
_MOST_SAID_BYTES = 4096  # a mask has more, and is in the message only
_LOOK_S = 0.2


class Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``timeout_s``: how long to wait for a request."""

    model: str
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 30.0


class SnapshotVerb(Verb[Snapshot]):
    arguments = Snapshot

    def lane(self, arguments: Snapshot) -> str:
        """Of its own: it waits for requests, and holds up no other command."""
        return f"/snapshot/{arguments.model}"

    def run(self, context: Context, arguments: Snapshot, progress: Progress) -> Result:
        model = context.runtime.model(arguments.model)
        frame = self._wait(context, model, arguments.timeout_s)
        data, kind, size = _file_of(model, frame, context.settings.commands.max_snapshot_bytes)
        digest = hashlib.sha256(data).hexdigest()
        told = {"version": model.version, "kind": kind, "sha256": digest, "size_bytes": len(data)}
        said = _said(model, frame, size)
        topic = context.topics.of("snapshot", context.id)
        encoded = base64.b64encode(data).decode()
        context.sender.send(topic, {"name": model.name, **told, **said, "data_base64": encoded})
        is_short = len(msgspec.json.encode(said)) <= _MOST_SAID_BYTES
        return {"topic": topic, **told, **(said if is_short else {})}

    @staticmethod
    def _wait(context: Context, model: Model, timeout_s: float) -> Frame:
        deadline_s = time.monotonic() + timeout_s
        capture = model.capture(_MOST_FRAME_BYTES)
        try:
            while True:
                try:
                    return capture.future.result(_LOOK_S)
                except FutureTimeoutError:
                    context.check()
                    if time.monotonic() >= deadline_s:
                        raise UnavailableError(
                            f"no request for {model.name} came in {timeout_s:g} s",
                            hint="give it more time with timeout_s",
                        ) from None
        finally:
            capture.cancel()


def _file_of(model: Model, frame: Frame, most_bytes: int) -> tuple[bytes, str, Any]:
    """The frame as a file, its kind, and (height, width) where it is a picture."""
    spec = model.manifest.image
    if spec is not None and spec.input in frame.inputs:
        from edge.vision.showing import encode, picture_of

        try:
            picture = picture_of(frame.inputs[spec.input], spec)
            file = encode(picture, most_bytes)
            return file.data, file.kind, picture.shape[:2]
        except ImportError:
            pass  # without OpenCV, the tensors are what can be told
    data = _npz(frame.inputs)
    if len(data) > most_bytes:
        raise InputError(
            f"the frame has {len(data)} bytes, allowed are {most_bytes}",
            hint="raise max_snapshot_bytes in [commands] of edge.toml",
        )
    return data, "npz", None


def _npz(arrays: dict[str, Array]) -> bytes:
    """As ``numpy.load`` reads it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            plain = array.astype(str) if array.dtype.hasobject else array
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, plain, allow_pickle=False)
    return stream.getvalue()


def _said(model: Model, frame: Frame, size: Any) -> Result:
    """What the model made of it: decoded where the bundle says how, and small tensors as they are.

    Boxes are in pixels of the picture that the model was given.
    """
    from edge.vision import Geometry

    outputs = {name: _shown(array) for name, array in frame.outputs.items()}
    if model.manifest.output is None and model.manifest.task == "tensors":
        return {"outputs": outputs}
    try:
        geometry = None if size is None else Geometry.identity(size)
        prediction = model.decode(frame.outputs, geometry)
    except (EdgeError, ValueError) as error:
        return {"outputs": outputs, "undecoded": str(error)}
    return {"prediction": msgspec.to_builtins(prediction)}


def _shown(array: Array) -> dict[str, Any]:
    shown: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.size <= _MOST_VALUES and array.dtype.kind in "fiub":
        shown["values"] = [v if np.isfinite(v) else None for v in array.ravel().tolist()]
    return shown


VERB = SnapshotVerb()
