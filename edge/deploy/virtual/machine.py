"""A virtual machine: QEMU emulating arm64 with UEFI, and the image as its disk."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import msgspec

from edge.core.errors import InputError, UnavailableError
from edge.deploy.virtual.image import require_disk
from edge.deploy.virtual.rootfs import ARCH

HOST_AS_SEEN = "10.0.2.2"
"""The workstation's own loopback, from within (QEMU's user networking)."""

_QEMU = "qemu-system-aarch64"
_FIRMWARE = (
    "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",  # Debian, Ubuntu
    "/usr/share/edk2/aarch64/QEMU_EFI.fd",  # Fedora
    "{qemu}/share/qemu/edk2-aarch64-code.fd",  # QEMU's own, as Homebrew has it
)
_CONTROL = "control"
_POWER_DOWN_S = 60.0


class Hardware(msgspec.Struct, frozen=True):
    """``ports`` are forwarded from this machine's loopback: here -> there.

    ``is_discarded`` drops all that the machine writes when it ends.
    """

    memory_bytes: int = 2 << 30
    cores: int = 2
    ports: dict[int, int] = {}
    is_discarded: bool = False


def command(image: Path, firmware: Path, hardware: Hardware, control: Path) -> list[str]:
    """How QEMU is called. Its console is standard input and output.

    Args:
        firmware: UEFI, which finds the boot loader on the disk.
        control: The socket on which it takes requests.
    """
    forwards = "".join(
        f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in hardware.ports.items()
    )
    path = str(image).replace(",", ",,")
    discarded = "on" if hardware.is_discarded else "off"
    is_native = platform.machine() == ARCH and os.access("/dev/kvm", os.W_OK)
    return [
        _QEMU,
        *("-machine", "virt"),
        *(("-accel", "kvm", "-cpu", "host") if is_native else ("-cpu", "cortex-a72")),
        *("-smp", str(hardware.cores)),
        *("-m", f"{hardware.memory_bytes >> 20}M"),
        *("-bios", str(firmware)),
        *("-drive", f"file={path},format=raw,if=none,id=disk,snapshot={discarded}"),
        *("-device", "virtio-blk-pci,drive=disk,bootindex=0"),
        *("-netdev", f"user,id=net{forwards}", "-device", "virtio-net-pci,netdev=net"),
        *("-device", "virtio-rng-pci"),
        *("-qmp", f"unix:{control},server=on,wait=off"),
        *("-display", "none", "-serial", "stdio"),
    ]


class VirtualMachine:
    """Runs from ``start`` until it is stopped, cut off, or powers itself down.

    Args:
        console: Where its console goes; None for this process's.
    Raises:
        InputError: The image is none, or a port is taken.
        UnavailableError: QEMU or its firmware is not installed.
    """

    def __init__(self, image: Path, hardware: Hardware, console: Path | None = None) -> None:
        self._image = image
        self._hardware = hardware
        self._console = console
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        require_disk(self._image)
        firmware = _firmware()
        for port in self._hardware.ports:
            _require_free(port)
        self._folder = Path(tempfile.mkdtemp(prefix="edge-virtual-"))
        call = command(self._image, firmware, self._hardware, self._folder / _CONTROL)
        output = open(self._console, "ab") if self._console else None  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                call,
                stdin=subprocess.DEVNULL if self._console else None,
                stdout=output,
                stderr=subprocess.STDOUT if self._console else None,
                start_new_session=True,  # Ctrl-C is for us, who power it down
            )
        finally:
            if output is not None:
                output.close()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """QEMU's exit code; None while it runs."""
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def power_down(self, timeout_s: float = _POWER_DOWN_S) -> bool:
        """Press the power button, and wait; False if that did nothing and it had to be cut off."""
        if self.is_running:
            self._tell("system_powerdown")
        is_down = self.wait(timeout_s) is not None or not self.is_running
        self.cut_power()
        return is_down

    def cut_power(self) -> None:
        """As if the plug was pulled: what is not on the disk is lost."""
        if self._process is not None and self.is_running:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        self.cut_power()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def __enter__(self) -> VirtualMachine:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _tell(self, what: str) -> None:
        """One request of QEMU's machine protocol (https://www.qemu.org/docs/master/interop/qmp-spec.html)."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5.0)
            try:
                connection.connect(f"{self._folder}/{_CONTROL}")
                for request in ("qmp_capabilities", what):
                    connection.sendall(json.dumps({"execute": request}).encode())
                    time.sleep(0.1)
            except OSError:  # it has just ended
                return


def _firmware() -> Path:
    qemu = shutil.which(_QEMU)
    if qemu is None:
        raise UnavailableError(
            f"{_QEMU} is not installed",
            hint="sudo apt-get install qemu-system-arm qemu-efi-aarch64",
        )
    paths = [Path(one.format(qemu=Path(qemu).parent.parent)) for one in _FIRMWARE]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise UnavailableError(
            "there is no UEFI firmware for arm64: it would be " + " or ".join(map(str, paths)),
            hint="sudo apt-get install qemu-efi-aarch64",
        )
    return found


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                f"port {port} is taken: {error.strerror}", hint="another one: --ssh-port, --port"
            ) from error
