"""The program for the device: a few modules in one file that any Python there can run."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
_MAIN = "from ondevice.main import main\nmain()\n"


@cache
def program() -> bytes:
    """``edge-device.pyz``; the same code gives the same bytes."""
    folder = Path(__file__).parent / "ondevice"
    sources = {f"ondevice/{path.name}": path.read_text() for path in folder.glob("*.py")}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted({**sources, "__main__.py": _MAIN}.items()):
            archive.writestr(
                zipfile.ZipInfo(name, _FIXED_TIME), text.encode(), zipfile.ZIP_DEFLATED
            )
    return buffer.getvalue()
