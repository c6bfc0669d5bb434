"""What is asked of the program: by a workstation over SSH, or by a unit at boot."""

from __future__ import annotations

import sys


def main() -> None:
    sys.exit(f"edge-device: {sys.argv[1:]} is not known")
