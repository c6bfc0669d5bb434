"""What figures say of where they were taken."""

from __future__ import annotations

import platform

from edge.core import plugins
from edge.core.profile import load_profile


def machine(engine: str = "") -> str:
    """This machine: processor, cores, architecture; then an engine and its version, if asked."""
    host = load_profile("host")
    parts = [host.compute.cpu, f"{host.compute.cores} cores", platform.machine()]
    if engine:
        parts.append(f"{engine} {plugins.backend(engine).availability().version}")
    return ", ".join(parts)
