"""Ports of the loopback interface that nothing else gets while the tests run."""

from __future__ import annotations

import errno
import itertools
import os
import socket

_FIRST, _COUNT = 20_000, 12_000
"""Below those that Linux gives to clients (ip_local_port_range): none of them comes in between."""

_held: list[socket.socket] = []
_next = itertools.count(os.getpid() * 37)


def free_port() -> int:
    """A TCP port where nothing listens unless the caller does, also between two of its servers.

    UDP has numbers of its own: a socket there keeps the other test processes from this one.
    """
    for number in itertools.islice(_next, _COUNT):
        port = _FIRST + number % _COUNT
        mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            mark.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError as error:
            mark.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            _held.append(mark)
            return port
    raise OSError(errno.EADDRINUSE, "no port is free")


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except OSError:
        return False
    return True
