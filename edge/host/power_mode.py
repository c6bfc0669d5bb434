"""The device's own power mode: on a Jetson, that of ``nvpmodel``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec

from edge.core.errors import EngineError, NotFoundError, UnavailableError, UnsupportedError

_TOOL = "nvpmodel"
_FOLDERS = "/usr/sbin:/sbin"
_CONFIGURATION = Path("etc/nvpmodel.conf")
_TIMEOUT_S = 30.0

_MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)
_ACTIVE = re.compile(r"NV Power Mode:\s*(\S+)\s+(\d+)")


class PowerMode(msgspec.Struct, frozen=True):
    """A mode by its number and its name; both are the board's own."""

    number: int
    name: str


class PowerModes:
    """Reads and sets the mode; setting it needs root.

    Args:
        root: Where ``etc`` is: in a container, that of its host.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._tool = shutil.which(_TOOL, path=f"{os.environ.get('PATH', '')}:{_FOLDERS}")

    @property
    def is_there(self) -> bool:
        return self._tool is not None

    def all(self) -> list[PowerMode]:
        """The modes that the board has, as far as its configuration tells."""
        try:
            text = (self._root / _CONFIGURATION).read_text(errors="replace")
        except OSError:
            return []
        return [PowerMode(int(number), name) for number, name in _MODE.findall(text)]

    def active(self) -> PowerMode:
        """The mode that is set.

        Raises:
            UnsupportedError: The device has no nvpmodel.
            EdgeError: It does not say.
        """
        text = self._ask("-q")
        found = _ACTIVE.search(text)
        if found is None:
            raise EngineError(f"{_TOOL} -q does not tell the mode: {_last_line(text)}")
        return PowerMode(int(found[2]), found[1])

    def set(self, wanted: str) -> PowerMode:
        """Set a mode by its name or number, and give the one that is set then.

        Raises:
            NotFoundError: The board has no such mode.
            UnsupportedError: The device has no nvpmodel, or would have to start again for it.
            EdgeError: It failed.
        """
        mode = self._find(wanted)
        if self.active() == mode:
            return mode
        text = self._ask("-m", str(mode.number))
        active = self.active()
        if active.number == mode.number:
            return active
        if "reboot" in text.lower():  # it asks, and is told nothing
            raise UnsupportedError(
                f"power mode {mode.name} needs a restart of the device; it stays in {active.name}",
                hint=f"at the device: sudo {_TOOL} -m {mode.number}",
            )
        raise EngineError(
            f"{_TOOL} -m {mode.number} left the device in {active.name}: {_last_line(text)}"
        )

    def _find(self, wanted: str) -> PowerMode:
        modes = self.all()
        for mode in modes:
            if wanted in (mode.name, str(mode.number)):
                return mode
        self._require()
        known = ", ".join(f"{mode.name} ({mode.number})" for mode in modes)
        raise NotFoundError(
            f"this device has no power mode {wanted!r}",
            hint=f"there are: {known}" if known else f"{_CONFIGURATION} does not list any",
        )

    def _require(self) -> str:
        if self._tool is None:
            raise UnsupportedError(
                f"this device has no power modes that can be set: there is no {_TOOL}",
                hint="set budget_watts or max_celsius instead",
            )
        return self._tool

    def _ask(self, *arguments: str) -> str:
        """What it prints. A question whether to restart gets no answer, which means no."""
        command = [self._require(), *arguments]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"{' '.join(command)} failed: {error}") from error
        text = done.stdout.decode(errors="replace")
        if done.returncode and "reboot" not in text.lower():
            raise EngineError(
                f"{' '.join(command)} failed with {done.returncode}: {_last_line(text)}",
                hint="setting a power mode needs root" if os.geteuid() else "",
            )
        return text


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"
