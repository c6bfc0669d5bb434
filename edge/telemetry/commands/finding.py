"""Finds verbs by file name: ``verbs/roll_back.py`` is ``roll-back`` in a topic."""

from __future__ import annotations

import importlib
from typing import Any

from edge.core import plugins
from edge.telemetry.commands.verb import Verb

_PACKAGE = "edge.telemetry.commands.verbs"


def verbs() -> dict[str, Verb[Any]]:
    """Name in topics -> verb."""
    return {
        stem.replace("_", "-"): importlib.import_module(f"{_PACKAGE}.{stem}").VERB
        for stem in plugins.stems(_PACKAGE)
    }


def right_of(name: str) -> str:
    """The key in ``[commands]`` that allows the verb of that name."""
    return name.replace("-", "_")
