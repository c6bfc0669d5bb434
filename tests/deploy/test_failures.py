"""What ssh and sudo say becomes a sentence and the next thing to do."""

from __future__ import annotations

import pytest

from edge.core.errors import InputError, UnavailableError
from edge.deploy.failures import broken, explain

CHANGED = """\
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r
The fingerprint for the ED25519 key sent by the remote host is\r
SHA256:FRQ5PUA2vog9OA4NWJftpzde35tMLRnIRtQ+vgSItMw.\r
Offending ED25519 key in /home/ann/.ssh/known_hosts:1\r
  remove with:\r
  ssh-keygen -f "/home/ann/.ssh/known_hosts" -R "[nano]:2222"\r
Host key verification failed.\r
"""


@pytest.mark.parametrize(
    ("stderr", "message", "hint"),
    [
        (CHANGED, "than before: SHA256:FRQ5PUA2vog9OA4NWJftpzde35tMLRnIRtQ+vgSItMw", "nano]:2222"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", "another host key", "-R nano"),
        ("Host key verification failed.", "not known here", "ssh root@nano"),
        ("root@nano: Permission denied (publickey).", "let this user in", "ssh-copy-id root@nano"),
        ("Received disconnect: Too many authentication failures", "let this user in", "ssh-add"),
        ("sudo: a password is required", "asks for a password", "sudoers"),
        ("sh: 1: exec: sudo: not found", "no right to become root", "root@nano"),
        ("edge-needs-python", "no Python 3.8", "apt-get install python3"),
        ("ssh: Could not resolve hostname nano: Name or service not known", "named nano", "name"),
        (
            "ssh: connect to host nano port 22: Connection refused\r\n",
            "root@nano can not be reached (port 22: Connection refused)",
            "SSH server",
        ),
        (
            "ssh: connect to host nano port 22: Connection timed out",
            "root@nano can not be reached (port 22: Connection timed out)",
            "is it on",
        ),
        ("Connection timed out during banner exchange", "timed out during banner", "is it on"),
        ("kex_exchange_identification: read: Connection reset by peer", "reset by peer", "SSH"),
        ("This account is not available.", "nothing for us: This account", "ssh root@nano id"),
        ("", "without a word", "ssh root@nano id"),
    ],
)
def test_what_ssh_says_is_explained(stderr: str, message: str, hint: str) -> None:
    error = explain("root@nano", stderr)
    assert isinstance(error, UnavailableError)
    assert message in str(error)
    assert hint in error.hint


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("Timeout, server nano not responding.", "ended: Timeout, server nano not responding."),
        ("Connection reset by 10.0.0.7 port 22", "ended: Connection reset by 10.0.0.7 port 22"),
        ("", "without a word"),
    ],
)
def test_a_connection_that_broke_was_one(stderr: str, message: str) -> None:
    error = broken("root@nano", stderr)
    assert isinstance(error, UnavailableError)
    assert message in str(error)
    assert "run it again" in error.hint


@pytest.mark.parametrize(
    "stderr",
    [
        "/home/ann/.ssh/config: line 1: Bad configuration option: bogus\r\n"
        "/home/ann/.ssh/config: terminating, 1 bad configuration options\r\n",
        "Can't open user config file /nowhere: No such file or directory\r\n",
    ],
)
def test_settings_that_ssh_does_not_take_are_no_matter_of_the_host(stderr: str) -> None:
    error = explain("root@nano", stderr)
    assert isinstance(error, InputError)
    assert stderr.splitlines()[0] in str(error)
    assert "--ssh-config" in error.hint
