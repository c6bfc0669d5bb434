"""What a command says, and what is wrong with one: pure, and afraid of nothing that comes in."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar

import msgspec

from edge.core.errors import (
    BundleError,
    EdgeError,
    InputError,
    NotFoundError,
    SignatureError,
    UnavailableError,
    UnsupportedError,
)
from edge.telemetry.redaction import without_secrets

Kind = Literal[
    "invalid",
    "not-allowed",
    "not-found",
    "expired",
    "downgrade",
    "untrusted",
    "unsupported",
    "unavailable",
    "interrupted",
    "withdrawn",
    "failed",
]
Key = tuple[str, str]
"""The verb's name in topics, and the command's id."""

TOLD = ("status", "ts_ms", "progress", "result", "reason", "hint", "kind")
"""Fields that are the device's: what a command says there is not kept."""

OWN_PREFIX = "x_"
"""Fields that are the operator's: kept as they came, and never read. All others that a verb does
not know are refused: a misspelt ``version`` would else be another command."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_EXPIRES_MS = 1 << 53
_MOST_SHOWN = 120
_STATUSES = ("init", "executing", "successful", "failed")

S = TypeVar("S", bound=msgspec.Struct)


class RefusedError(EdgeError):
    """A command that is not run; ``kind`` says in a word what is wrong, for programs."""

    def __init__(self, message: str, *, kind: Kind, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class Order(msgspec.Struct, frozen=True):
    """``fields``: all that the operator said but for ``TOLD``.

    ``until_s`` is on the monotonic clock: the broker's word for how long it holds.
    """

    status: str
    fields: dict[str, Any] = {}
    expires_ms: int | None = None
    until_s: float | None = None


def read(payload: bytes) -> Order:
    """Read what stands in a command's topic.

    Raises:
        RefusedError: It is no JSON object, or ``status`` or ``expires`` can't be what they are.
    """
    try:
        document = msgspec.json.decode(payload, type=dict[str, Any])
        msgspec.json.encode(document)  # it goes back in the answer
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RefusedError(
            f"the command can not be read: {_said(error)}",
            kind="invalid",
            hint='send a JSON object in UTF-8, as {"status": "init", "model": "…"}',
        ) from error
    status, expires = document.get("status"), document.get("expires")
    if not isinstance(status, str):
        raise RefusedError(
            "the command has no status that is a text", kind="invalid", hint='add "status": "init"'
        )
    if status not in _STATUSES:
        raise RefusedError(
            f"there is no status {_short(status)}", kind="invalid", hint='begin with "init"'
        )
    fields = {name: value for name, value in document.items() if name not in TOLD}
    if expires is not None and not (type(expires) is int and 0 < expires <= _MOST_EXPIRES_MS):
        raise RefusedError(
            f"expires is {_short(expires)}, not a time in Unix milliseconds", kind="invalid"
        )
    return Order(status, fields, expires)


def check_id(id_: str) -> None:
    """Raises ``RefusedError`` for an id that could not be remembered under its name."""
    if not _ID.fullmatch(id_):
        raise RefusedError(
            f"the command's id {_short(id_)} is not usable",
            kind="invalid",
            hint="use 1 to 64 of the characters A-Z a-z 0-9 _ -",
        )


def arguments_of(fields: Mapping[str, Any], arguments: type[S], verb: str) -> S:
    """A verb's arguments.

    Raises:
        RefusedError: One is missing, not known or ill-typed.
    """
    known = [field.encode_name for field in msgspec.structs.fields(arguments)]
    said = {
        name: value
        for name, value in fields.items()
        if name != "expires" and not name.startswith(OWN_PREFIX)
    }
    try:
        return msgspec.convert(said, arguments)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise RefusedError(
            f"the arguments of {verb} are wrong: {_said(error)}",
            kind="invalid",
            hint=f"{verb} takes {', '.join(known) or 'none'}; fields of your own begin with "
            f"{OWN_PREFIX}",
        ) from error


def check_known(verb: str, known: Collection[str]) -> None:
    """Raises ``RefusedError`` for a verb that is none."""
    if verb not in known:
        raise RefusedError(
            f"there is no command {_short(verb)}",
            kind="unsupported",
            hint=f"there are: {', '.join(sorted(known))}",
        )


def check_expiry(
    expires_ms: int | None, now_ms: int, *, is_synchronized: bool, is_live: bool
) -> None:
    """Refuse what came too late.

    While nothing keeps this device's clock right, it can't tell. What the broker passes on at once
    is then new enough; what it had kept may be of any age.

    Raises:
        RefusedError: It is too late, or might be.
    """
    if expires_ms is None:
        return
    if is_synchronized and now_ms > expires_ms:
        raise RefusedError(f"it expired {(now_ms - expires_ms) / 1000:.1f} s ago", kind="expired")
    if not is_synchronized and not is_live:
        raise RefusedError(
            "whether it has expired can't be told: this device's clock is not synchronized",
            kind="expired",
            hint="send it again while the device is connected, or without expires",
        )


def failure(error: BaseException) -> dict[str, Any]:
    """What a failed command's answer says, in the fields of ``TOLD``."""
    told = {"status": "failed", "reason": _said(error), "kind": _kind(error)}
    hint = getattr(error, "hint", "")
    return {**told, "hint": hint} if hint else told


_KINDS: dict[type[BaseException], Kind] = {
    UnsupportedError: "unsupported",
    NotFoundError: "not-found",
    InputError: "invalid",
    SignatureError: "untrusted",
    BundleError: "invalid",
    UnavailableError: "unavailable",
}


def _kind(error: BaseException) -> Kind:
    if isinstance(error, RefusedError):
        return error.kind
    return next((kind for known, kind in _KINDS.items() if isinstance(error, known)), "failed")


def _said(error: BaseException) -> str:
    """Its message; of what is no deliberate error, its name as well."""
    text = str(error)
    if isinstance(error, (EdgeError, msgspec.MsgspecError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shown(said: object) -> str:
    """What came from outside, fit for a line of a log."""
    text = said if isinstance(said, str) else msgspec.json.encode(said).decode()
    text = without_secrets(text)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def _short(value: Any) -> str:
    return shown(repr(value))
