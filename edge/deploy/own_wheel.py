"""This project as a wheel, from wherever it is installed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from edge.core.cache import default_cache
from edge.core.durable import replacing
from edge.core.errors import UnavailableError
from edge.core.lazy import DISTRIBUTION

_STEM = DISTRIBUTION.replace("-", "_")
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
_INSTALLERS = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json")
"""Of the installation, not of the wheel; RECORD is made anew."""


def own_wheel(cache: Path | None = None) -> Path:
    """A wheel of the code that runs here: the same code gives the same file.

    Raises:
        UnavailableError: This is a checkout, and hatchling is not there to build it.
    """
    checkout = _checkout()
    name, data = _built(checkout) if checkout else _repacked()
    digest = hashlib.sha256(data).hexdigest()
    path = (cache or default_cache()) / "wheels" / "own" / digest / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as stream:
            stream.write(data)
    return path


def _checkout() -> Path | None:
    """The folder with our sources, if they are used from there."""
    text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json") or "{}"
    origin = json.loads(text)
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(__file__).parents[2]


def _built(checkout: Path) -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel came of it"])[-1]
            raise UnavailableError(
                f"{checkout} can not be made a wheel: {reason}", hint="pip install hatchling"
            )
        return wheels[0].name, wheels[0].read_bytes()


def _repacked() -> tuple[str, bytes]:
    """The files of the installation, in a wheel again."""
    distribution = metadata.distribution(DISTRIBUTION)
    info = f"{_STEM}-{distribution.version}.dist-info"
    record: list[str] = []
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, data: bytes) -> None:
            entry = zipfile.ZipInfo(name, _FIXED_TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)

        for file in sorted(distribution.files or ()):
            is_ours = ".." not in file.parts and "__pycache__" not in file.parts
            if is_ours and not (file.parts[0] == info and file.name in _INSTALLERS):
                data = file.read_binary()
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
                record.append(f"{file},sha256={digest.decode()},{len(data)}")
                add(str(file), data)
        record.append(f"{info}/RECORD,,")
        add(f"{info}/RECORD", ("\n".join(record) + "\n").encode())
    return f"{_STEM}-{distribution.version}-py3-none-any.whl", buffer.getvalue()
