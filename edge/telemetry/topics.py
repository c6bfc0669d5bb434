"""The names under which messages go: ``edge/v1/<fleet>/<device>/…``."""

from __future__ import annotations

import msgspec

from edge.core.errors import SettingsError

ROOT = "edge/v1"
ANY = "+"
FORBIDDEN = "+#/\0"

_ESCAPED = str.maketrans(dict.fromkeys(FORBIDDEN, "_"))


class Topics(msgspec.Struct, frozen=True):
    """The topics of one device."""

    fleet: str
    device: str

    def __post_init__(self) -> None:
        for kind, name in (("fleet", self.fleet), ("device", self.device)):
            _check(kind, name)

    def of(self, *parts: str) -> str:
        """The topic of ``parts``, for example ``of("tele", "device")``."""
        path = "/".join(part.translate(_ESCAPED) for part in parts)
        return f"{ROOT}/{self.fleet}/{self.device}/{path}"

    @property
    def status(self) -> str:
        return self.of("status")

    @property
    def gap(self) -> str:
        """Where it is told what was lost."""
        return self.of("event", "gap")

    @property
    def client_id(self) -> str:
        return f"edge/{self.fleet}/{self.device}"


def patterns(fleet: str = ANY, device: str = ANY, *more: str) -> list[str]:
    """What to subscribe to, for one device or for any: all that devices tell.

    A ``#`` would bring the commands too, and with an update the whole of its bundle.

    Args:
        more: Patterns of further paths, for example ``cmd/+/+``.
    Raises:
        SettingsError: A name can't be part of a topic.
    """
    for kind, name in (("fleet", fleet), ("device", device)):
        if name != ANY:
            _check(kind, name)
    return [f"{ROOT}/{fleet}/{device}/{path}" for path in (ANY, f"{ANY}/{ANY}", *more)]


def split(topic: str) -> tuple[str, str, str]:
    """Fleet, device and the rest of a topic; all empty when it is not one of ours."""
    head, _, tail = topic.partition(f"{ROOT}/")
    fleet, _, tail = tail.partition("/")
    device, _, rest = tail.partition("/")
    return ("", "", "") if head or not rest else (fleet, device, rest)


def matches(pattern: str, topic: str) -> bool:
    """Whether a subscription to ``pattern`` gets what is published to ``topic``."""
    wanted, given = pattern.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(
        one in (ANY, other) for one, other in zip(wanted, given, strict=True)
    )


def _check(kind: str, name: str) -> None:
    wrong = sorted({character for character in name if character in FORBIDDEN})
    if name and not wrong and name.isprintable():
        return
    why = f"{' '.join(map(repr, wrong))} can not" if wrong else "that can not"
    raise SettingsError(
        f"{kind} name {name!r}: {why} be part of an MQTT topic",
        hint=f"set EDGE_MQTT_{kind.upper()} to letters, digits, - and _",
    )
