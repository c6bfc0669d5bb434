"""How QEMU is called, what is said before it is, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from free_ports import free_port

from edge.core.errors import InputError, UnavailableError
from edge.deploy.virtual import machine as machine_module
from edge.deploy.virtual.machine import Hardware, VirtualMachine, command

_FAKE_QEMU = """#!{python}
import socket, sys
where = sys.argv[sys.argv.index("-qmp") + 1].split(",")[0].removeprefix("unix:")
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(where)
    listener.listen()
    print("powered", flush=True)
    connection, _ = listener.accept()
    told = b""
    while b"system_powerdown" not in told:
        told += connection.recv(4096)
print("asleep", flush=True)
"""


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enough of a disk to be tried, on a machine that has firmware to try it with."""
    (tmp_path / "firmware.fd").touch()
    monkeypatch.setattr(machine_module, "_FIRMWARE", (str(tmp_path / "firmware.fd"),))
    path = tmp_path / "device.img"
    path.write_bytes(bytes(512) + b"EFI PART")
    return path


def test_firmware_ports_and_what_is_discarded_are_in_the_call() -> None:
    hardware = Hardware(1 << 30, 3, {2222: 22, 8000: 8000}, is_discarded=True)
    call = " ".join(command(Path("a,b.img"), Path("uefi.fd"), hardware, Path("c")))
    assert "hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp:127.0.0.1:8000-:8000" in call
    assert "-m 1024M" in call
    assert "-smp 3" in call
    assert "-bios uefi.fd" in call
    assert "file=a,,b.img,format=raw,if=none,id=disk,snapshot=on" in call


def test_missing_image_is_told_before_anything_starts(tmp_path: Path) -> None:
    machine = VirtualMachine(tmp_path / "none.img", Hardware())
    with pytest.raises(InputError, match="there is no image") as caught:
        machine.start()
    assert "edge flash" in caught.value.hint


def test_missing_qemu_is_named_with_its_package(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnavailableError, match="qemu-system-aarch64") as caught:
        VirtualMachine(image, Hardware()).start()
    assert "qemu-system-arm qemu-efi-aarch64" in caught.value.hint


def test_missing_firmware_is_named_with_its_package(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(machine_module, "_FIRMWARE", ("/nowhere/uefi.fd",))
    with pytest.raises(UnavailableError, match=r"UEFI.*/nowhere/uefi\.fd") as caught:
        VirtualMachine(image, Hardware()).start()
    assert "qemu-efi-aarch64" in caught.value.hint


def test_port_that_is_taken_is_named(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        machine = VirtualMachine(image, Hardware(ports={port: 22}))
        with pytest.raises(InputError, match=f"port {port} is taken"):
            machine.start()


def test_terminal_that_goes_away_powers_the_machine_down(image: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    firmware = prefix / "share/qemu/edk2-aarch64-code.fd"
    for path, text in {
        prefix / "bin/qemu-system-aarch64": _FAKE_QEMU.format(python=sys.executable),
        firmware: "",
    }.items():
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-m", "edge", "virtual", str(image), "--ssh-port", str(free_port())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": f"{prefix}/bin:{os.environ['PATH']}", "TMPDIR": str(tmp_path)},
    ) as running:
        assert running.stdout is not None
        said = ""
        while not ("Ctrl-C" in said and "powered" in said):  # we wait for it, and it for us
            line = running.stdout.readline()
            assert line, said
            said += line
        running.send_signal(signal.SIGTERM)
        said += running.stdout.read()  # to its end: QEMU has ended too
        assert "asleep" in said
        assert "cut off" not in said
        assert running.wait() == 0, said
    assert list(tmp_path.glob("edge-virtual-*")) == []
