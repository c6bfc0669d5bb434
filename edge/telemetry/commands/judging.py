"""Whether a command may be run, before anything is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from edge.telemetry import clock
from edge.telemetry.commands import order as orders
from edge.telemetry.commands.order import Key, Order, RefusedError
from edge.telemetry.commands.verbs import right_of

if TYPE_CHECKING:
    from edge.settings import Commands
    from edge.telemetry.commands.verb import Verb
    from edge.telemetry.link import Received


class Judge:
    """By the rights that are on and the verbs that there are."""

    def __init__(self, rights: Commands, verbs: dict[str, Verb[Any]]) -> None:
        self._rights = rights
        self._verbs = verbs

    def read(self, received: Received) -> Order:
        """Raises ``RefusedError`` for what is too long or no command."""
        most = self._rights.max_payload_bytes
        if len(received.payload) > most:
            raise RefusedError(
                f"the command has more than {most} bytes",
                kind="invalid",
                hint="raise max_payload_bytes in [commands] of edge.toml there",
            )
        order = orders.read(received.payload)
        if received.left_s is None:
            return order
        return msgspec.structs.replace(order, until_s=time.monotonic() + received.left_s)

    def allow(self, key: Key, order: Order, *, is_live: bool) -> tuple[Verb[Any], Any]:
        """The verb, and its arguments.

        Args:
            is_live: Whether the broker passed it on as it came, rather than having kept it.
        Raises:
            RefusedError: It is not known, not allowed, malformed or too late.
        """
        name, id_ = key
        verb = self.verb(name)
        orders.check_id(id_)
        self.check_right(name)
        self.check_expiry(order, is_live=is_live)
        return verb, orders.arguments_of(order.fields, verb.arguments, name)

    def resume(self, name: str, fields: dict[str, Any]) -> tuple[Verb[Any], Any]:
        """The same for one that had begun before a restart."""
        verb = self.verb(name)
        self.check_right(name)
        return verb, orders.arguments_of(fields, verb.arguments, name)

    def verb(self, name: str) -> Verb[Any]:
        orders.check_known(name, self._verbs)
        return self._verbs[name]

    def check_right(self, name: str) -> None:
        right = right_of(name)
        if not self._rights.allows(right):
            raise RefusedError(
                f"not allowed: this device does not take {name} from afar",
                kind="not-allowed",
                hint=f"switch it on in edge.toml there: [commands] {right} = true",
            )

    @staticmethod
    def check_expiry(order: Order, *, is_live: bool) -> None:
        """Raises ``RefusedError``; for what the broker counts down, our clock need not be right."""
        if order.until_s is not None and time.monotonic() > order.until_s:
            raise RefusedError("it expired while it waited here for its turn", kind="expired")
        orders.check_expiry(
            order.expires_ms,
            clock.now_ms(),
            is_synchronized=clock.is_synchronized(),
            is_live=is_live or order.until_s is not None,
        )
