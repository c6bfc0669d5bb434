"""A Debian root folder for arm64, made once by debootstrap and kept."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from edge.core.cache import default_cache
from edge.core.durable import locked
from edge.core.errors import UnavailableError

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
ARCH = "aarch64"

_DEBIAN_ARCH = "arm64"
_PACKAGES = [
    "systemd-sysv",
    "systemd-timesyncd",
    "udev",
    "dbus",
    "kmod",
    "initramfs-tools",
    "linux-image-cloud-arm64",
    "python3",
    "python3-venv",
    "openssh-server",
    "openssl",
    "sudo",
    "iproute2",
    "ca-certificates",
]
_TOOLS = {"debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs", "debugfs": "e2fsprogs"}
_BINFMT = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")

Tell = Callable[[str], None]


def base_root(tell: Tell, mirror: str = MIRROR, cache: Path | None = None) -> Path:
    """The folder of a system that nobody has booted yet; it takes minutes the first time.

    Raises:
        UnavailableError: A tool or the right to use it is missing, or debootstrap failed.
    """
    command = ["debootstrap", f"--arch={_DEBIAN_ARCH}", "--variant=minbase"]
    command += [f"--include={','.join(_PACKAGES)}", SUITE]
    key = hashlib.sha256(repr(command).encode()).hexdigest()[:16]
    folder = (cache or default_cache()) / "virtual" / f"{SUITE}-{_DEBIAN_ARCH}-{key}"
    require_tools()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            _require_emulation()
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            tell(f"Debian {SUITE} for {_DEBIAN_ARCH} from {mirror}, once: some minutes")
            _run([*command, str(partial), mirror], folder.with_name(f"{folder.name}.log"))
            _clean(partial)
            partial.rename(folder)
    return folder


def require_tools() -> None:
    """
    Raises:
        UnavailableError: This is not root, or a tool is not installed.
    """
    missing = sorted({package for tool, package in _TOOLS.items() if not _find(tool)})
    if missing:
        raise UnavailableError(
            f"to make an image, this machine lacks {', '.join(missing)}",
            hint=f"sudo apt-get install {' '.join(missing)}",
        )
    if os.geteuid() != 0:
        raise UnavailableError(
            "only root may make a root folder: files in it belong to other users",
            hint="the same command with sudo",
        )


def _require_emulation() -> None:
    if platform.machine() == ARCH or _BINFMT.exists():
        return
    raise UnavailableError(
        "this kernel does not run arm64 programs, which install themselves in the image",
        hint="sudo apt-get install qemu-user-static binfmt-support; in a container also "
        "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && update-binfmts --enable",
    )


def _find(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _run(command: Sequence[str], log: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    with open(log, "wb") as stream:
        done = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False
        )
    if done.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise UnavailableError(
            f"debootstrap failed: {last[0]}", hint=f"what it did is in {log}; try again"
        )


def _clean(root: Path) -> None:
    """Take out what one device has and no other may, and what only fills the image."""
    for pattern in ("etc/ssh/ssh_host_*", "var/cache/apt/archives/*.deb", "var/lib/apt/lists/*"):
        for path in root.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    (root / "etc/machine-id").write_text("")  # made anew at the first boot
    (root / "etc/hostname").unlink(missing_ok=True)
