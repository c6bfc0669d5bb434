"""Which board gets which name and which address, where one image is for many of them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

import msgspec

from edge.core.errors import InputError

ANY = "*"
"""Instead of a board's own number: every board."""
HOSTNAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9a-z]+|[0-9a-f]{2}(?::[0-9a-f]{2}){5}")

_HINT = "a line for each: SERIAL-OR-MAC NAME [ADDRESS/PREFIX], as 1421322000042 cam-1 10.0.0.7/24"


class Board(msgspec.Struct, frozen=True):
    """``number`` is the serial number on the module's label, or the MAC address of a port of it.

    Without a ``name`` it takes the image's, without an ``address`` (as ``10.0.0.7/24``) DHCP's.
    """

    number: str
    name: str = ""
    address: str = ""

    def __str__(self) -> str:
        return " ".join([self.number, self.name or "-", self.address]).strip()


class Wired(msgspec.Struct, frozen=True):
    """What boards with an address of their own need besides it."""

    gateway: str = ""
    dns: tuple[str, ...] = ()


def read_boards(text: str) -> tuple[Board, ...]:
    """Read a table; ``#`` begins a comment.

    Raises:
        InputError: A line is none, or two boards would have one name or address.
    """
    boards = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].lower().split()
        if not words:
            continue
        is_board = len(words) in (2, 3) and _NUMBER.fullmatch(words[0])
        if not is_board or not HOSTNAME.fullmatch(words[1]):
            raise InputError(f"line {number} of the boards is {line.strip()!r}", hint=_HINT)
        boards.append(Board(words[0], words[1], *(require_address(one) for one in words[2:])))
    _require_distinct([one.number for one in boards], "number")
    _require_distinct([one.name for one in boards], "name")
    _require_distinct([one.address.split("/")[0] for one in boards if one.address], "address")
    if not boards:
        raise InputError("there is no board in the table", hint=_HINT)
    return tuple(boards)


def require_address(text: str) -> str:
    """An address with the length of its network's prefix.

    Raises:
        InputError: It is none, of IPv6, or of a network.
    """
    try:
        found = ipaddress.IPv4Interface(text if "/" in text else "")
    except ValueError:
        found = None
    if found is not None and not _is_of_all(found):
        return str(found)
    raise InputError(
        f"{text!r} is no IPv4 address of a board with a prefix, as 192.168.1.20/24",
        hint="for anything else describe the network yourself: --network FILE",
    )


def _is_of_all(address: ipaddress.IPv4Interface) -> bool:
    """Whether it stands for its network, or all in it."""
    network = address.network
    shared = (network.network_address, network.broadcast_address)
    return network.num_addresses > 2 and address.ip in shared


def require_reachable(wired: Wired, boards: Iterable[Board]) -> None:
    """
    Raises:
        InputError: The gateway or a name server is no address, or no board could reach it.
    """
    try:
        gateway = ipaddress.IPv4Address(wired.gateway) if wired.gateway else None
        for one in wired.dns:
            ipaddress.IPv4Address(one)
    except ValueError as error:
        raise InputError(f"no IPv4 address: {error}") from error
    addresses = [one.address for one in boards if one.address]
    if (wired.gateway or wired.dns) and not addresses:
        raise InputError(
            "a gateway and name servers go with fixed addresses, and no board has one",
            hint="--address 192.168.1.20/24, or a third column in --boards",
        )
    for address in addresses:
        if gateway and gateway not in ipaddress.IPv4Interface(address).network:
            raise InputError(f"the gateway {gateway} is not in the network of {address}")


def _require_distinct(values: list[str], what: str) -> None:
    twice = sorted({one for one in values if values.count(one) > 1})
    if twice:
        raise InputError(f"two boards have the {what} {', '.join(twice)}")
