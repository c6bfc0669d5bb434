"""Labels that come back for answers, by the id of their request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from edge.core.errors import EdgeError, InputError
from edge.host.health.truth import TrueBox, TrueMask
from edge.server.describing import json_response
from edge.server.failures import failure_response
from edge.server.kserve.codec import MALFORMED

if TYPE_CHECKING:
    from edge.host import Runtime
    from edge.server.http.message import Request, Response


# They are compared on the event loop: 10,000 boxes with 300 take a third of a second, and so do
# 32 masks of a million pixels.
_MOST_LABELS = 1000
_MOST_BOXES = 10_000
_MOST_MASKS = 32


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was right for a request: a class, by index or name, or all boxes, or the mask."""

    id: str
    label: int | str | None = None
    boxes: tuple[TrueBox, ...] | None = None
    mask: TrueMask | None = None

    def __post_init__(self) -> None:
        if len(self.truths) != 1:
            raise ValueError("give either a label or boxes or a mask")

    @property
    def truths(self) -> list[Any]:
        """One, of the three kinds."""
        return [one for one in (self.label, self.boxes, self.mask) if one is not None]


class LabelsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    labels: Annotated[tuple[Label, ...], msgspec.Meta(max_length=_MOST_LABELS)]

    def __post_init__(self) -> None:
        count = sum(len(label.boxes or ()) for label in self.labels)
        if count > _MOST_BOXES:
            raise ValueError(f"{count:,} boxes, at most {_MOST_BOXES:,} are taken at once")
        masks = sum(label.mask is not None for label in self.labels)
        if masks > _MOST_MASKS:
            raise ValueError(f"{masks} masks, at most {_MOST_MASKS} are taken at once")


class Refusal(msgspec.Struct, frozen=True):
    id: str
    error: str


# Made at import, by one thread: msgspec crashes where two learn a type at once.
_decode = msgspec.json.Decoder(LabelsRequest).decode


class Labels:
    """Answers ``POST /v2/models/{m}[/versions/{v}]/labels``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def take(self, request: Request, name: str, version: str) -> Response:
        """Count what can be counted, and say what can not and why; fails if nothing can be.

        Raises:
            InputError: It is no such request.
            NotFoundError: There is no such model.
        """
        try:
            wanted = _decode(request.body.data)
        except MALFORMED as error:
            raise InputError(
                f"not labels: {error}", hint='send {"labels": [{"id": "…", "label": 3}]}'
            ) from error
        self._runtime.status_of(name, version)
        errors: dict[int, EdgeError] = {}
        for number, each in enumerate(wanted.labels):
            try:
                self._runtime.label(name, each.id, each.truths[0], version or None)
            except EdgeError as error:
                errors[number] = error
        if errors and len(errors) == len(wanted.labels):
            return failure_response(errors[0])
        refused = [Refusal(wanted.labels[at].id, str(error)) for at, error in errors.items()]
        taken = len(wanted.labels) - len(errors)
        return json_response({"accepted": taken, "refused": refused})
