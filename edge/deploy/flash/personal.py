"""What makes an image one's own: its name, its user, and who may log in. No secret is in it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edge.core.errors import InputError
from edge.deploy.flash.boards import HOSTNAME, Board, Wired, require_reachable
from edge.deploy.ondevice.layout import Layout
from edge.deploy.overlay import Placed

SERIAL = "{serial}"
DEFAULT_HOSTNAME = f"edge-{SERIAL}"

_PROGRAMS = Path(__file__).parent / "first_boot"
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_NETWORKS = {
    ".nmconnection": ("/etc/NetworkManager/system-connections", 0o600),  # else it is ignored
    ".network": ("/etc/systemd/network", 0o644),
}
_SECRET = re.compile(r"(?im)^\s*(psk|password|wep-key\d|private-key|secret)\s*=\s*\S")
_KEY = re.compile(r"(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-\S+|sk-\S+) [A-Za-z0-9+/=]+(?: [^\n]*)?")


class Personal(msgspec.Struct, frozen=True):
    """``hostname`` may hold ``{serial}``, which each board replaces by its own. Those in ``boards``
    have the names and addresses that it says.

    ``user`` may log in with one of ``ssh_keys`` (public ones, a line each), has no password and may
    become root; empty for none. ``environment`` is for the service: EDGE_* variables. ``network``
    is what NetworkManager (``.nmconnection``) or systemd-networkd (``.network``) reads, by name;
    ``trusted`` are public keys of those who may sign bundles, by name.

    Raises:
        InputError: A name or a key is none.
    """

    hostname: str = DEFAULT_HOSTNAME
    boards: tuple[Board, ...] = ()
    wired: Wired = Wired()
    user: str = ""
    ssh_keys: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    network: dict[str, str] = {}
    trusted: dict[str, str] = {}

    def __post_init__(self) -> None:
        if not HOSTNAME.fullmatch(self.hostname.replace(SERIAL, "0")):
            raise InputError(
                f"{self.hostname!r} is no host name",
                hint="letters, digits and hyphens; {serial} stands for the board's serial number",
            )
        require_reachable(self.wired, self.boards)
        if self.user and not _USER.fullmatch(self.user):
            raise InputError(f"{self.user!r} is no name of a user")
        if bool(self.user) != bool(self.ssh_keys):
            raise InputError(
                "a user needs a key to log in with, and a key a user",
                hint="give both: --user admin --ssh-key ~/.ssh/id_ed25519.pub",
            )
        for key in self.ssh_keys:
            if not _KEY.fullmatch(key.strip()):
                raise InputError(
                    "that is no public SSH key", hint="it is the file whose name ends in .pub"
                )
        for name, text in self.trusted.items():
            if "PRIVATE" in text or not name.endswith((".pub", ".pem")):
                raise InputError(
                    f"{name} is no public key", hint="its name ends in .pub or .pem: edge sign"
                )
        for name, text in self.network.items():
            if Path(name).suffix not in _NETWORKS:
                raise InputError(
                    f"{name} is no description of a network",
                    hint=f"its name ends in {' or '.join(_NETWORKS)}",
                )
            if _SECRET.search(text):
                raise InputError(
                    f"{name} holds a password, and an image must not: others get it as well",
                    hint="connect the first time by cable, and set it on the device",
                )


def personal_files(personal: Personal, layout: Layout | None = None) -> list[Placed]:
    """Files for the device, and the programs that act on them at its first boot."""
    layout = layout or Layout()
    kept = f"{layout.etc}/first-boot"
    files = [Placed(f"{kept}/hostname", f"{personal.hostname}\n".encode())]
    tables = {
        "boards": [str(board) for board in personal.boards],
        "gateway": [personal.wired.gateway] if personal.wired.gateway else [],
        "dns": personal.wired.dns,
    }
    files += [
        Placed(f"{kept}/{name}", "".join(f"{line}\n" for line in lines).encode())
        for name, lines in tables.items()
        if lines
    ]
    if personal.user:
        keys = "".join(f"{key.strip()}\n" for key in personal.ssh_keys)
        rule = f"{personal.user} ALL=(ALL) NOPASSWD: ALL\n"
        files += [
            Placed(f"{kept}/user", f"{personal.user}\n".encode()),
            Placed(f"{kept}/authorized_keys", keys.encode()),
            Placed("/etc/sudoers.d/edge", rule.encode(), 0o440),
        ]
    environment = dict(personal.environment)
    if personal.trusted:
        keys_folder = f"{layout.etc}/keys"
        files += [Placed(f"{keys_folder}/{n}", t.encode()) for n, t in personal.trusted.items()]
        environment["EDGE_TRUST_KEYS"] = keys_folder
    if environment:
        lines = "".join(f"{name}={value}\n" for name, value in sorted(environment.items()))
        files.append(Placed(layout.environment, lines.encode(), 0o600))
    files += [
        Placed(f"{folder}/{name}", text.encode(), mode)
        for name, text in personal.network.items()
        for folder, mode in [_NETWORKS[Path(name).suffix]]
    ]
    programs = [
        Placed(f"{layout.first_boot_programs}/{path.name}", path.read_bytes(), 0o755)
        for path in sorted(_PROGRAMS.iterdir())
        if path.name[0].isdigit()
    ]
    return [*files, *programs]
