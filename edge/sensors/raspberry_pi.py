"""What the firmware of a Raspberry Pi tells: what holds it back, and power by rail on a Pi 5.

True by documentation; tried on no board of ours. Sources: raspberrypi.com/documentation,
computers/os.html ("get_throttled"); linux of raspberrypi, drivers/firmware/raspberrypi.c
(``get_throttled``, a hexadecimal number) and drivers/hwmon/raspberrypi-hwmon.c (``rpi_volt``);
raspberrypi/utils, vcgencmd/vcgencmd.c (the request to ``/dev/vcio``).
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct

from edge.sensors import Cause, Reading, Sensors, Throttle
from edge.sensors._files import Tree, to_float

_THROTTLED = (
    "sys/devices/platform/soc*/*firmware*/get_throttled",
    "sys/devices/platform/*firmware*/get_throttled",
)
_UNDERVOLTAGE: tuple[Cause, str] = ("power", "the supply's voltage is too low")
_BITS: dict[int, tuple[Cause, str]] = {
    0: _UNDERVOLTAGE,
    1: ("thermal", "the firmware caps the clock of the cores"),
    2: ("thermal", "the firmware throttles"),
    3: ("thermal", "the soft limit of the temperature is reached"),
}
"""Those from 16 on say that it happened since the start. A capped clock follows from a low voltage
as well: with bit 0, 1 and 2 say nothing of heat."""

_ADC = re.compile(r"(\S+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]")
_VCIO = "dev/vcio"
_IOCTL = 0xC0006400 | struct.calcsize("P") << 16  # _IOWR(100, 0, char *)
_GET_GENCMD_RESULT = 0x00030080
_ANSWER_BYTES = 1024


class RaspberryPiSensors:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._throttled: list[str] = []
        self._alarms: list[str] = []
        self._has_pmic = False

    def probe(self) -> None:
        self._throttled = [path for pattern in _THROTTLED for path in self._tree.glob(pattern)]
        self._alarms = [f"{chip}/in0_lcrit_alarm" for _, chip in self._tree.chips("rpi_volt")]
        self._has_pmic = bool(_rails(self._firmware(b"pmic_read_adc")))

    def read(self, now_s: float) -> Reading:
        watts = _rails(self._firmware(b"pmic_read_adc")) if self._has_pmic else {}
        return Reading(
            power_watts=watts,
            # Less than what the plug gives: the rails do not feed USB.
            total_watts=round(sum(watts.values()), 3) if watts else None,
            total_rail="all rails of the PMIC" if self._has_pmic else "",
            is_board=self._has_pmic,
            throttles=self._throttles(),
        )

    def _throttles(self) -> tuple[Throttle, ...]:
        bits = self._throttled_bits()
        if any(self._tree.integer(path) for path in self._alarms):
            bits |= 1
        if bits & 1:
            return (Throttle(*_UNDERVOLTAGE),)
        return tuple(Throttle(*said) for bit, said in _BITS.items() if bits >> bit & 1)

    def _throttled_bits(self) -> int:
        """From the kernel's file; where that is not there, as in a container, from the firmware."""
        if self._throttled:
            text = self._tree.text(self._throttled[0]) or ""
        else:
            text = self._firmware(b"get_throttled").partition("=")[2]
        try:
            return int(text, 16)
        except ValueError:
            return 0

    def _firmware(self, command: bytes) -> str:
        path = self._tree.at(_VCIO)
        try:
            if not stat.S_ISCHR(os.stat(path).st_mode):
                return ""
            return _ask(path, command)
        except OSError:  # not in the group video, or a firmware that does not know it
            return ""


def _ask(path: str, command: bytes) -> str:
    """A firmware command's answer, as ``vcgencmd`` gets it, without a process for each."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        head = struct.pack("=5I", 0, _GET_GENCMD_RESULT, _ANSWER_BYTES, 0, 0)
        body = command.ljust(_ANSWER_BYTES, b"\0") + b"\0\0\0\0"
        message = bytearray(struct.pack("=I", 4 + len(head) + len(body)) + head + body)
        fcntl.ioctl(descriptor, _IOCTL, message, True)
    finally:
        os.close(descriptor)
    return bytes(message[24 : 24 + _ANSWER_BYTES]).partition(b"\0")[0].decode("ascii", "replace")


def _rails(answer: str) -> dict[str, float]:
    """Watts of each rail of which volts and amperes are told."""
    told: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for name, unit, figure in _ADC.findall(answer):
        if (value := to_float(figure)) is not None:
            told[unit][name] = value
    return {
        name: round(amperes * told["V"][name], 3)
        for name, amperes in told["A"].items()
        if name in told["V"]
    }


SENSORS: type[Sensors] = RaspberryPiSensors
