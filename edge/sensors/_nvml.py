"""The calls of NVIDIA's management library (NVML) that sensors need, by ctypes.

Names, structures and numbers as in nvml.h of CUDA 13; each name is there since drivers of 2018 at
the latest, but for those that say otherwise. The library comes with the driver.
"""

from __future__ import annotations

import ctypes
from typing import Any

from edge.sensors._files import Tree

_LIBRARY = "libnvidia-ml.so.1"
_SIGNS = ("sys/module/nvidia", "dev/nvidiactl")
_FOLDERS = ("usr/lib", "usr/lib/*", "usr/lib64")

_FUNCTION_NOT_FOUND = 13
REFUSALS = frozenset({2, 3, _FUNCTION_NOT_FOUND, 25})
"""Invalid argument, not supported, no such function, no such version: so it stays."""

LOSSES = frozenset({1, 9, 15, 16, 18, 28})
"""Not initialized, no driver, GPU lost, to be reset, other driver, gone: all has to begin anew."""

GRAPHICS, MEMORY = 0, 2  # nvmlClockType_t
_GPU_SENSOR = 0  # nvmlTemperatureSensors_t
_SLOWDOWN, _GPU_MAX = 1, 3  # nvmlTemperatureThresholds_t
_APPLICATION_TARGET = 1  # nvmlClockId_t
_POWER_AVERAGE, _POWER_INSTANT = 185, 186  # field identifiers, since drivers of 2023
_UUID_BYTES = 96

Handle = ctypes.c_void_p


class NvmlError(Exception):
    """A call failed, with this number of nvmlReturn_t."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name} failed with {code}")
        self.code = code


class _Memory(ctypes.Structure):  # nvmlMemory_v2_t
    _fields_ = [
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class _OldMemory(ctypes.Structure):  # nvmlMemory_t
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class _Temperature(ctypes.Structure):  # nvmlTemperature_v1_t
    _fields_ = [("version", ctypes.c_uint), ("sensor", ctypes.c_int), ("celsius", ctypes.c_int)]


class _Utilization(ctypes.Structure):  # nvmlUtilization_t
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Value(ctypes.Union):  # nvmlValue_t
    _fields_ = [("double", ctypes.c_double), ("uint", ctypes.c_uint)]


class _Field(ctypes.Structure):  # nvmlFieldValue_t
    _fields_ = [
        ("field", ctypes.c_uint),
        ("scope", ctypes.c_uint),
        ("timestamp", ctypes.c_longlong),
        ("latency_us", ctypes.c_longlong),
        ("kind", ctypes.c_int),
        ("status", ctypes.c_int),
        ("value", _Value),
    ]


class Nvml:
    """The library; each method raises ``NvmlError``. Calls let other threads of Python run."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def init(self) -> None:
        self._call("nvmlInit_v2")

    def shutdown(self) -> None:
        self._call("nvmlShutdown")

    def handles(self) -> list[Handle]:
        """Of all GPUs that can be reached."""
        found = []
        for index in range(self._number("nvmlDeviceGetCount_v2")):
            handle = Handle()
            try:
                self._call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle))
            except NvmlError:  # it fell off the bus, or is not for us
                continue
            found.append(handle)
        return found

    def uuid(self, gpu: Handle) -> str:
        text = ctypes.create_string_buffer(_UUID_BYTES)
        self._call("nvmlDeviceGetUUID", gpu, text, _UUID_BYTES)
        return text.value.decode("ascii", "replace")

    def load_percent(self, gpu: Handle) -> int:
        rates = _Utilization()
        self._call("nvmlDeviceGetUtilizationRates", gpu, ctypes.byref(rates))
        return int(rates.gpu)

    def memory_bytes(self, gpu: Handle) -> tuple[int, int]:
        """Used, and in all. What the driver keeps for itself is not used, from 510 on."""
        memory = _Memory(version=ctypes.sizeof(_Memory) | 2 << 24)
        try:
            self._call("nvmlDeviceGetMemoryInfo_v2", gpu, ctypes.byref(memory))
        except NvmlError as error:
            if error.code not in REFUSALS:
                raise
            old = _OldMemory()
            self._call("nvmlDeviceGetMemoryInfo", gpu, ctypes.byref(old))
            return int(old.used), int(old.total)
        return int(memory.used), int(memory.total)

    def celsius(self, gpu: Handle) -> int:
        """By the old call first: all have it, but those after CUDA 13."""
        try:
            return self._number("nvmlDeviceGetTemperature", gpu, _GPU_SENSOR)
        except NvmlError as error:
            if error.code != _FUNCTION_NOT_FOUND:
                raise
            version = ctypes.sizeof(_Temperature) | 1 << 24
            temperature = _Temperature(version=version, sensor=_GPU_SENSOR)
            self._call("nvmlDeviceGetTemperatureV", gpu, ctypes.byref(temperature))
            return int(temperature.celsius)

    def slowdown_celsius(self, gpu: Handle) -> int:
        """Where the driver begins to hold it back; else where the hardware does."""
        try:
            return self._number("nvmlDeviceGetTemperatureThreshold", gpu, _GPU_MAX)
        except NvmlError:
            return self._number("nvmlDeviceGetTemperatureThreshold", gpu, _SLOWDOWN)

    def milliwatts(self, gpu: Handle) -> int:
        """Of the last second, where the GPU tells that; older ones tell that of now."""
        try:
            return self._field(gpu, _POWER_AVERAGE)
        except NvmlError as error:
            if error.code in LOSSES:
                raise
            return self._number("nvmlDeviceGetPowerUsage", gpu)

    def milliwatts_now(self, gpu: Handle) -> int:
        return self._field(gpu, _POWER_INSTANT)

    def millijoules(self, gpu: Handle) -> int:
        """Since the driver was loaded; Volta and newer."""
        count = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", gpu, ctypes.byref(count))
        return count.value

    def megahertz(self, gpu: Handle, clock: int) -> int:
        return self._number("nvmlDeviceGetClockInfo", gpu, clock)

    def limit_megahertz(self, gpu: Handle, clock: int) -> int:
        """What applications may have, as it is set."""
        return self._number("nvmlDeviceGetClock", gpu, clock, _APPLICATION_TARGET)

    def most_megahertz(self, gpu: Handle, clock: int) -> int:
        return self._number("nvmlDeviceGetMaxClockInfo", gpu, clock)

    def fan_percent(self, gpu: Handle) -> int:
        """What the fan is told to do; passive boards have none."""
        return self._number("nvmlDeviceGetFanSpeed", gpu)

    def slowed_by(self, gpu: Handle) -> int:
        """Bits of nvmlClocksEventReasons; drivers before 535 know them under their old name."""
        bits = ctypes.c_ulonglong()
        try:
            self._call("nvmlDeviceGetCurrentClocksEventReasons", gpu, ctypes.byref(bits))
        except NvmlError as error:
            if error.code != _FUNCTION_NOT_FOUND:
                raise
            self._call("nvmlDeviceGetCurrentClocksThrottleReasons", gpu, ctypes.byref(bits))
        return bits.value

    def _field(self, gpu: Handle, identifier: int) -> int:
        field = _Field(field=identifier)
        self._call("nvmlDeviceGetFieldValues", gpu, 1, ctypes.byref(field))
        if field.status:
            raise NvmlError(f"field {identifier}", field.status)
        return int(field.value.uint)

    def _number(self, name: str, *arguments: Any) -> int:
        number = ctypes.c_uint()
        self._call(name, *arguments, ctypes.byref(number))
        return number.value

    def _call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, name, None)
        code = function(*arguments) if function else _FUNCTION_NOT_FOUND
        if code:
            raise NvmlError(name, code)


def find(tree: Tree) -> Nvml | None:
    """The library of the machine that ``tree`` is of; None where NVIDIA's driver is not loaded.

    In a container that sees the root of its host, that of the host fits the driver.
    """
    if not any(tree.glob(sign) for sign in _SIGNS):
        return None
    places = [place for folder in _FOLDERS for place in tree.glob(f"{folder}/{_LIBRARY}")]
    for place in [_LIBRARY] if tree.at("") == "/" else [*places, _LIBRARY]:
        try:
            return Nvml(ctypes.CDLL(place))
        except OSError:
            continue
    return None
