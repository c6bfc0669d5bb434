"""Runs a vendor's flashing tool: follows what it says, and explains how it failed."""

from __future__ import annotations

import os
import re
import subprocess
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from pwd import getpwuid

import msgspec

from edge.core.errors import UnavailableError
from edge.deploy.flash.vendor import Call

Tell = Callable[[str, int, int], None]
"""What is done now, which of how many stages that is."""

_LAST_LINES = 200

# What flash.sh, l4t_initrd_flash_internal.sh, l4t_flash_from_kernel.sh and Thor's unified_flash say
# (BSPs r35.6 to r39.2).
_STAGES = (
    (r"(?i)making system\.img|creating .*rootfs|building .*image", "making the system image"),
    (r"(?i)signing|tegrasign|generate rcm boot commandline", "signing"),
    (
        r"(?i)sending mb1|boot rom communication|rcm-boot started|boot the device with",
        "starting the board by USB",
    ),
    (r"(?i)waiting for target to boot-up|waiting for device to expose", "waiting for the board"),
    (r"(?i)start(ing)? (to )?flash|formatting|writing .*partition", "writing"),
    (r"(?i)flash(ed|ing)? (is )?success|has been flashed successfully|flashing finish", "done"),
)
_BOARD_LOG = re.compile(r"saved to Linux_for_Tegra/(initrdlog/flash_(\S+?)_\d+_\S+\.log)")
"""With ``--massflash`` each board has a log of its own, named after its USB port."""
_BOARD_DONE = re.compile(r"Flash is successful|Flashing finish")


class Trouble(msgspec.Struct, frozen=True):
    """A failure that is known: what the tool says, what it means, and what to do about it."""

    pattern: str
    meaning: str
    do: str


# Tried in this order on each line, the last line first: a tool's last words are the nearest.
TROUBLES = (
    Trouble(
        r"(?i)no space left on device",
        "this machine's disk is full",
        "flashing needs some twice the size of rootfs/ beside it",
    ),
    Trouble(
        r"(?i)to install - please run|please install|command not found"
        r"|(abootimg|sshpass|simg2img|xmllint).*not found",
        "a program that the tool needs is not installed",
        "sudo ./tools/l4t_flash_prerequisites.sh",
    ),
    Trouble(
        r"(?i)too many devices in RCM mode",
        "more boards are in recovery mode than it takes at once",
        "unplug the others, or --massflash N",
    ),
    Trouble(
        r"(?i)no devices? to flash|probing the target board failed|could not detect target"
        r"|device not found|ECID is\s*$|no target connected",
        "no board in recovery mode is on USB",
        "hold the recovery button (or bridge FC REC and GND) while it powers up, then look for "
        "0955 with lsusb",
    ),
    Trouble(
        r"(?i)target board does not have SD card|(find|reach) the external storage"
        r"|correct external storage device",
        "the board has no such storage",
        "see that the drive or card is in; --storage says which one is meant",
    ),
    Trouble(
        r"(?i)greater than the \S+ actual size|gpt is larger than the device",
        "the drive is smaller than the partitions, which are for 64 GB (Thor: 256 GB)",
        "a larger drive, or num_sectors in the layout .xml and ROOTFSSIZE in the board's .conf",
    ),
    Trouble(
        r"(?i)exec format error|qemu-aarch64(-static)? .*not found",
        "this kernel does not run arm64 programs",
        "sudo apt-get install qemu-user-static binfmt-support",
    ),
    Trouble(
        # Of a command that failed on the board, the tool says that it may as well have been NFS.
        r"(?i)^(?!.*flash command has failed).*nfs.*(fail|refused|timed out|denied|blocked"
        r"|not running|not exported)|rpcbind|cannot connect to its ssh server|ipv6 is disabled",
        "the board can not reach this machine over its USB network",
        "let NFS and IPv6 through the firewall (sudo ufw allow nfs), end a VPN, and stop what "
        "manages usb0",
    ),
    Trouble(
        # NVIDIA's forum, since 36.4.3: variables of an earlier board stay in the configuration.
        r"(?i)waiting for target to boot-up|device ping failed after RCM boot",
        "the board took the flashing system and never came up with it",
        "a direct USB 2 port without a hub, autosuspend off "
        "(echo -1 > /sys/module/usbcore/parameters/autosuspend); with L4T 36.4.3 and later also "
        "RCM_UEFIBL= and RCM_TBCFILE= in the board's .conf",
    ),
    Trouble(
        r"(?i)crc-8|eeprom.*(fail|mismatch|invalid)|board ?id.*(unknown|mismatch|not match)"
        r"|unrecognized module SKU",
        "the module is not the one that this profile names",
        "edge profiles lists them; --module says what to take it for",
    ),
    Trouble(
        # Also what a package for one module does to another: its memory settings do not fit.
        r"(?i)return value (3|8|202)|usb.*(timed out|timeout|error|failed)"
        r"|timeout in usb|cannot open usb|error: 3",
        "the USB connection broke",
        "another cable and port, no hub, and recovery mode once more; with --massflash all modules "
        "must be of the one kind that --module names",
    ),
)


def follow(call: Call, folder: Path, log: Path, tell: Tell) -> None:
    """Run a program of the BSP to its end; all that it says goes to ``log``, but no secret.

    Raises:
        UnavailableError: It failed: how, and what helps, as far as that is known.
    """
    last: deque[str] = deque(maxlen=_LAST_LINES)
    boards: dict[str, Path] = {}
    stage = 0
    with open(log, "ab") as stream:
        stream.write(f"$ {call}\n".encode())
        try:
            process = subprocess.Popen(
                call.arguments,
                cwd=folder,
                # flash.sh asks USER who runs it, which nobody sets in a container.
                env={**os.environ, "USER": getpwuid(os.geteuid()).pw_name, **call.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise UnavailableError(f"{call.arguments[0]}: {error.strerror}") from error
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                text = call.without_secret(line.decode(errors="replace"))
                stream.write(text.encode())
                stream.flush()
                last.append(text.strip())
                own_log = _BOARD_LOG.search(text)
                if own_log:
                    boards[own_log[2]] = folder / own_log[1]
                reached = _stage(text)
                if reached > stage:
                    stage = reached
                    tell(_STAGES[stage - 1][1], stage, len(_STAGES))
    if process.returncode:
        told = _of_boards(boards) or _why(list(last), log)
        name = Path(call.arguments[0]).name
        raise UnavailableError(f"{name} ended with {process.returncode}{told[0]}", hint=told[1])


def explain(lines: Iterable[str]) -> Trouble | None:
    """The trouble that these lines, the last of a log, tell of."""
    for line in reversed(list(lines)):
        for one in TROUBLES:
            if re.search(one.pattern, line):
                return one
    return None


def _stage(text: str) -> int:
    found = (number for number, (said, _) in enumerate(_STAGES, 1) if re.search(said, text))
    return next(found, 0)


def _of_boards(boards: dict[str, Path]) -> tuple[str, str] | None:
    """What became of each board that has a log of its own, and what to do."""
    texts = {port: _text(path) for port, path in boards.items()}
    failed = {port: text for port, text in texts.items() if not _BOARD_DONE.search(text)}
    if not failed:
        return None
    whys = {port: _why(text.splitlines(), boards[port]) for port, text in failed.items()}
    told = [f"\n  USB {port}{why}" for port, (why, _) in sorted(whys.items())]
    do = "; ".join(dict.fromkeys(hint for _, hint in whys.values()))
    return f", {len(failed)} of {len(boards)} boards failed:{''.join(told)}", do


def _why(lines: list[str], log: Path) -> tuple[str, str]:
    trouble = explain(lines)
    if trouble is None:
        said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return f", and said: {said}", f"all it said is in {log}"
    return f": {trouble.meaning}", f"{trouble.do}; its log is {log}"


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""
