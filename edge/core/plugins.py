"""Finds backends and converters by file name, so that a new one is one new file."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edge.core.errors import NotFoundError

if TYPE_CHECKING:
    from edge.core.contracts import Backend, Converter


def stems(package: str, suffix: str = ".py") -> list[str]:
    """Names of the files of ``package`` that do not start with an underscore, sorted."""
    return sorted(
        path.stem
        for folder in folders(package)
        for path in folder.iterdir()
        if path.suffix == suffix and not path.name.startswith("_")
    )


def backends() -> dict[str, Backend]:
    """Engine name -> backend, whether or not it is usable here."""
    return {name: backend(name) for name in stems("runtimes")}


def backend(name: str) -> Backend:
    return cast("Backend", _load("runtimes", name, "BACKEND", "engine"))


def converters() -> dict[str, Converter]:
    """Format name -> converter, whether or not its tools are here."""
    return {name: converter(name) for name in stems("converters")}


def converter(name: str) -> Converter:
    return cast("Converter", _load("converters", name, "CONVERTER", "target format"))


@cache
def folders(package: str) -> tuple[Path, ...]:
    """Where the files of ``package`` lie."""
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    return tuple(Path(location) for location in locations or ())


@cache
def _load(package: str, name: str, attribute: str, kind: str) -> Any:
    known = stems(package)
    if name not in known:
        raise NotFoundError(f"no {kind} named {name!r}", hint=f"there are: {', '.join(known)}")
    return getattr(importlib.import_module(f"{package}.{name}"), attribute)
