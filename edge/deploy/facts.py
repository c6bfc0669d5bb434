"""What a device said of itself."""

from __future__ import annotations

from typing import Any

import msgspec

from edge.core.errors import UnavailableError

OLDEST_PYTHON = (3, 10)


class Python(msgspec.Struct, frozen=True):
    version: str
    path: str

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("."))


class Installed(msgspec.Struct, frozen=True):
    """A model of the release that serves."""

    name: str
    version: str
    sha256: str


class Update(msgspec.Struct, frozen=True):
    """A model that a command brought, beside the release."""

    name: str
    version: str


class InstalledRuntime(msgspec.Struct, frozen=True):
    digest: str


class InstalledSettings(msgspec.Struct, frozen=True):
    sha256: str
    size_bytes: int


class InstalledRelease(msgspec.Struct, frozen=True):
    """What is needed of a ``release.json``, whichever version of ours wrote it."""

    digest: str
    edge: str
    models: tuple[Installed, ...]
    runtime: InstalledRuntime
    settings: InstalledSettings
    http: str


class Facts(msgspec.Struct, frozen=True):
    """As the program on the device gathers them; empty and 0 are unknown, or not there.

    ``requires`` of a variant and ``[software]`` of a profile use the names ``l4t``, ``cuda``,
    ``tensorrt``, ``npu_driver`` and ``sm`` for the same.
    """

    hostname: str
    arch: str
    system: str
    board: str
    glibc: str
    pythons: tuple[Python, ...]
    l4t: str
    cuda: str
    tensorrt: str
    sm: str
    npu_driver: str
    has_pycuda: bool
    memory_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int
    can_write: bool
    has_systemd: bool
    init: str
    release: InstalledRelease | None = None
    previous: InstalledRelease | None = None
    updates: tuple[Update, ...] = ()

    @property
    def python(self) -> str:
        """The version to make the environment with: that of ``python3``, if it is new enough.

        JetPack's TensorRT is for that one.
        """
        fitting = [python for python in self.pythons if python.number >= OLDEST_PYTHON]
        return fitting[0].version if fitting else ""

    @property
    def title(self) -> str:
        return self.board or f"{self.system}, {self.arch}"


def decode_facts(answer: Any) -> Facts:
    """Raises ``UnavailableError`` where it is not what this version of ours can read."""
    try:
        return msgspec.convert(answer, Facts)
    except msgspec.ValidationError as error:
        raise UnavailableError(f"what the device says of itself makes no sense: {error}") from error
