"""What ssh and sudo say where a host does not let us in, and what to do then."""

from __future__ import annotations

import re
from typing import NamedTuple

from edge.core.errors import EdgeError, InputError, UnavailableError

NO_PYTHON = "edge-needs-python"
"""Said by what we start on the host."""


class _Failure(NamedTuple):
    """What is said -> what to tell and what to do, with {host} and the groups of it filled in."""

    pattern: str
    message: str
    hint: str
    kind: type[EdgeError] = UnavailableError


# The first that fits.
_FAILURES = (
    _Failure(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "{host} shows another host key than before{key}",
        "if it was set up anew: {forget}; if not, it may be another machine",
    ),
    _Failure(
        r"Host key verification failed",
        "the host key of {host} is not known here",
        "connect once by hand and compare it: ssh {host}",
    ),
    _Failure(
        r"Permission denied \(|Too many authentication failures",
        "{host} does not let this user in",
        "add your key: ssh-copy-id {host} (a key with a passphrase: ssh-add)",
    ),
    _Failure(
        r"sudo: .*(password|terminal|tty)",
        "sudo asks for a password on {host}",
        "connect as root@{name}, or allow it there: echo 'USER ALL=(ALL) NOPASSWD: ALL' | "
        "sudo tee /etc/sudoers.d/edge",
    ),
    _Failure(
        r"sudo: not found|sudo: command not found|not in the sudoers|not allowed to execute",
        "the user has no right to become root on {host}",
        "connect as root@{name}, or let an administrator add the user to sudoers",
    ),
    _Failure(
        NO_PYTHON,
        "there is no Python 3.8 or newer on {host}",
        "install one there: apt-get install python3",
    ),
    _Failure(
        r"Could not resolve hostname",
        "no host is named {name}",
        "check the name, or give an address",
    ),
    _Failure(
        r"connect to host \S+ (?P<why>port \d+: Connection refused)",
        "{host} can not be reached ({why})",
        "is its SSH server on, at that port? Try: ssh {host}",
    ),
    _Failure(
        r"connect to host \S+ (?P<why>port \d+: .+)",
        "{host} can not be reached ({why})",
        "is it on, and in this network? Try: ssh {host}",
    ),
    _Failure(
        r"(?m:^(?P<why>Connection timed out during .+|kex_exchange_identification: .+|"
        r"Connection (closed|reset) by .+|Connection to \S+ port \d+ timed out))",
        "{host} can not be reached ({why})",
        "is it on, and an SSH server at that port? Try: ssh {host}",
    ),
    _Failure(
        r"(?P<why>.*Bad configuration option.*|Can't open user config file .*)",
        "ssh does not take its settings: {why}",
        "mend them, or name others: --ssh-config FILE",
        InputError,
    ),
)


def explain(host: str, text: str) -> EdgeError:
    """The error that stands for what ssh, or a login shell, printed instead of connecting us."""
    name = host.rpartition("@")[2]
    key = re.search(r"sent by the remote host is\s+(SHA256:[^\s.]+)", text)
    forget = re.search(r"ssh-keygen -f .+", text)
    words = {
        "host": host,
        "name": name,
        "key": f": {key[1]}" if key else "",
        "forget": forget[0].strip() if forget else f"ssh-keygen -R {name}",
    }
    for failure in _FAILURES:
        if found := re.search(failure.pattern, text):
            told = {**words, **{group: said.strip() for group, said in found.groupdict().items()}}
            return failure.kind(failure.message.format(**told), hint=failure.hint.format(**told))
    return UnavailableError(
        f"{host} starts nothing for us: {_last(text)}", hint=f"does this work? ssh {host} id"
    )


def broken(host: str, text: str) -> EdgeError:
    """The error for a connection that was good and ended."""
    return UnavailableError(
        f"the connection to {host} ended: {_last(text)}",
        hint="run it again: what has arrived is kept, and what serves there still does",
    )


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["without a word"])[-1]
