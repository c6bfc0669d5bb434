"""Runs a vendor's flashing tool: follows what it says, and explains how it failed."""

from __future__ import annotations

import os
import re
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge.core.errors import UnavailableError
from edge.deploy.flash.vendor import Call

Tell = Callable[[str, int, int], None]
"""What is done now, which of how many stages that is."""

_LAST_LINES = 200

_STAGES = (
    (r"(?i)making system\.img|creating .*rootfs|building .*image", "making the system image"),
    (r"(?i)signing|tegrasign", "signing"),
    (r"(?i)sending mb1|boot rom communication|rcm-boot started", "starting the board by USB"),
    (r"(?i)waiting for target to boot-up|waiting for device to expose", "waiting for the board"),
    (r"(?i)start(ing)? (to )?flash|formatting|writing .*partition", "writing"),
    (r"(?i)flash(ed|ing)? (is )?success|has been flashed successfully", "done"),
)


class Trouble(msgspec.Struct, frozen=True):
    """A failure that is known: what the tool says, what it means, and what to do about it."""

    pattern: str
    meaning: str
    do: str


# Tried in this order: the first one that fits is told.
TROUBLES = (
    Trouble(
        r"(?i)no space left on device",
        "this machine's disk is full",
        "flashing needs some twice the size of rootfs/ beside it",
    ),
    Trouble(
        r"(?i)please install|command not found|(abootimg|sshpass|simg2img|xmllint).*not found",
        "a program that the tool needs is not installed",
        "sudo ./tools/l4t_flash_prerequisites.sh",
    ),
    Trouble(
        r"(?i)no devices? to flash|probing the target board failed|could not detect target"
        r"|device not found|ECID is\s*$",
        "no board in recovery mode is on USB",
        "hold the recovery button (or bridge FC REC and GND) while it powers up, then look for "
        "0955 with lsusb",
    ),
    Trouble(
        r"(?i)exec format error|qemu-aarch64(-static)? .*not found",
        "this kernel does not run arm64 programs",
        "sudo apt-get install qemu-user-static binfmt-support",
    ),
    Trouble(
        r"(?i)(mount\.nfs|nfs).*(fail|refused|timed out|denied)|rpcbind",
        "the board can not reach this machine over its USB network",
        "let NFS and IPv6 through the firewall, and stop what manages usb0",
    ),
    Trouble(
        # NVIDIA's forum, since 36.4.3: variables of an earlier board stay in the configuration.
        r"(?i)waiting for target to boot-up",
        "the board took the flashing system and never came up with it",
        "a direct USB 2 port without a hub, autosuspend off "
        "(echo -1 > /sys/module/usbcore/parameters/autosuspend); with L4T 36.4.3 and later also "
        "RCM_UEFIBL= and RCM_TBCFILE= in the board's .conf",
    ),
    Trouble(
        r"(?i)return value (3|8|202)|usb.*(timed out|error)|error: 3",
        "the USB connection broke",
        "another cable and port, no hub, and recovery mode once more",
    ),
    Trouble(
        r"(?i)crc-8|eeprom.*(fail|mismatch|invalid)|board ?id.*(unknown|mismatch|not match)",
        "the module is not the one that this profile names",
        "edge profiles lists them; --module says what to take it for",
    ),
)


def follow(call: Call, folder: Path, log: Path, tell: Tell) -> None:
    """Run a program of the BSP to its end; all that it says goes to ``log``.

    Raises:
        UnavailableError: It failed: how, and what helps, as far as that is known.
    """
    last: deque[str] = deque(maxlen=_LAST_LINES)
    stage = 0
    with open(log, "ab") as stream:
        stream.write(f"$ {call}\n".encode())
        try:
            process = subprocess.Popen(
                call.arguments,
                cwd=folder,
                env={**os.environ, **call.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise UnavailableError(f"{call.arguments[0]}: {error.strerror}") from error
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                stream.write(line)
                stream.flush()
                text = line.decode(errors="replace").strip()
                last.append(text)
                reached = _stage(text)
                if reached > stage:
                    stage = reached
                    tell(_STAGES[stage - 1][1], stage, len(_STAGES))
    if process.returncode:
        raise _explained(call, process.returncode, list(last), log)


def explain(lines: list[str]) -> Trouble | None:
    """The trouble that these lines, the last of a log, tell of."""
    text = "\n".join(lines)
    return next((one for one in TROUBLES if re.search(one.pattern, text, re.MULTILINE)), None)


def _stage(text: str) -> int:
    found = (number for number, (said, _) in enumerate(_STAGES, 1) if re.search(said, text))
    return next(found, 0)


def _explained(call: Call, code: int, lines: list[str], log: Path) -> UnavailableError:
    trouble = explain(lines)
    name = Path(call.arguments[0]).name
    if trouble is None:
        said = next((line for line in reversed(lines) if line), "nothing")
        return UnavailableError(
            f"{name} ended with {code}, and said: {said}", hint=f"all it said is in {log}"
        )
    return UnavailableError(
        f"{name} ended with {code}: {trouble.meaning}", hint=f"{trouble.do}; its log is {log}"
    )
