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
from edge.deploy.virtual import tools

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
    "systemd-boot",
    "python3",
    "python3-venv",
    "openssh-server",
    "openssl",
    "sudo",
    "iproute2",
    "ca-certificates",
]
_DEBOOTSTRAP = [
    *("debootstrap", f"--arch={_DEBIAN_ARCH}", "--variant=minbase"),
    *(f"--include={','.join(_PACKAGES)}", SUITE),
]
# Whatever ends it, nothing that it mounted or started is left.
_ALONE = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
_UNWANTED = (
    "etc/ssh/ssh_host_*",
    "etc/hostname",
    "var/lib/dbus/machine-id",  # systemd would take it for its own
    "var/cache/apt/archives/*.deb",
    "var/lib/apt/lists/*",
)
_BINFMT = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")

Tell = Callable[[str], None]


def base_root(tell: Tell, mirror: str = MIRROR, cache: Path | None = None) -> Path:
    """The folder of a system that nobody has booted yet; it takes minutes the first time.

    Raises:
        UnavailableError: A tool or the right to use it is missing, or debootstrap failed.
    """
    require_tools(cache)
    folder = _folder(cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            tell(f"Debian {SUITE} for {_DEBIAN_ARCH} from {mirror}, once: some minutes")
            try:
                log = folder.with_name(f"{folder.name}.log")
                _run([*_ALONE, *_DEBOOTSTRAP, str(partial), mirror], log)
                _clean(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def require_tools(cache: Path | None = None) -> None:
    """
    Raises:
        UnavailableError: This is not root, or has not the tools; or it can not run arm64 programs,
            and there is no root folder yet.
    """
    tools.require()
    if os.geteuid() != 0:
        raise UnavailableError(
            "only root may make a root folder: files in it belong to other users",
            hint="the same command with sudo",
        )
    if not _folder(cache).is_dir():
        _require_emulation()


def _folder(cache: Path | None) -> Path:
    key = hashlib.sha256(repr(_DEBOOTSTRAP).encode()).hexdigest()[:16]
    return (cache or default_cache()) / "virtual" / f"{SUITE}-{_DEBIAN_ARCH}-{key}"


def _require_emulation() -> None:
    if platform.machine() == ARCH or _BINFMT.exists():
        return
    raise UnavailableError(
        "this kernel does not run arm64 programs, which install themselves in the image",
        hint="sudo apt-get install qemu-user-static binfmt-support; in a container also "
        "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && update-binfmts --enable",
    )


def _run(command: Sequence[str], log: Path) -> None:
    with open(log, "wb") as stream:
        done = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, env=tools.environment(), check=False
        )
    if done.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise UnavailableError(
            f"debootstrap failed: {last[0]}", hint=f"what it did is in {log}; try again"
        )


def _clean(root: Path) -> None:
    """Take out what one device has and no other may, and what only fills the image."""
    for pattern in _UNWANTED:
        for path in root.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    (root / "etc/machine-id").write_text("")  # made anew at the first boot
