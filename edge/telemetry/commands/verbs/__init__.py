"""One file for each thing that an operator may have done, ending in ``VERB = …``."""

from __future__ import annotations

import importlib
from typing import Any

from edge.core import plugins
from edge.telemetry.commands.verb import Verb


def verbs() -> dict[str, Verb[Any]]:
    """By name in topics: ``roll_back.py`` is ``roll-back``."""
    return {
        stem.replace("_", "-"): importlib.import_module(f"{__name__}.{stem}").VERB
        for stem in plugins.stems(__name__)
    }


def right_of(name: str) -> str:
    """The key in ``[commands]`` that allows the verb of that name."""
    return name.replace("-", "_")
