"""The only reader of ``edge.toml`` and of ``EDGE_*`` variables: a module for each section."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge.core.errors import SettingsError
from edge.core.pipelines import Pipelines
from edge.core.toml_places import describe, line_of
from edge.settings.commands import Commands as Commands
from edge.settings.cost import Cost as Cost
from edge.settings.health import Health as Health
from edge.settings.power import Power as Power
from edge.settings.serving import ModelSettings as ModelSettings
from edge.settings.serving import Serve as Serve
from edge.settings.sparkplug import Sparkplug as Sparkplug
from edge.settings.telemetry import MEMORY as MEMORY
from edge.settings.telemetry import Mqtt as Mqtt
from edge.settings.trust import Trust as Trust
from edge.settings.update import Update as Update

DEFAULT_PATH = Path("edge.toml")

Section = TypeVar("Section", bound=msgspec.Struct)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``models`` holds what differs from the defaults, by the name of the model.

    ``pipelines`` are models that work together, by a name of their own.
    """

    serve: Serve = Serve()
    mqtt: Mqtt = Mqtt()
    power: Power = Power()
    sparkplug: Sparkplug = Sparkplug()
    commands: Commands = Commands()
    cost: Cost = Cost()
    health: Health = Health()
    trust: Trust = Trust()
    update: Update = Update()
    models: dict[str, ModelSettings] = {}
    pipelines: Pipelines = {}


def load_settings(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings file, then lay ``EDGE_<SECTION>_<KEY>`` variables over it.

    Args:
        path: A file that must exist; None reads ``edge.toml`` here if there is one.
    Raises:
        SettingsError: The file can't be read, or a key or value is not known.
    """
    settings = _read(path)
    sections = msgspec.structs.asdict(settings)
    overlaid = {
        name: _overlay(name, table, environ)
        for name, table in sections.items()
        if isinstance(table, msgspec.Struct)  # names of models make no names of variables
    }
    return msgspec.structs.replace(settings, **overlaid)


def place_of(section: str, key: str, path: Path | None = None) -> str:
    """Where a key is said, for errors that only show with what else there is.

    Args:
        path: As for ``load_settings``.
    """
    source = path or DEFAULT_PATH
    line = line_of(source.read_text(), (section, key)) if source.is_file() else 0
    return f"{source}, line {line}, [{section}]: {key}" if line else f"[{section}] {key}"


def _read(path: Path | None) -> Settings:
    if path is None and not DEFAULT_PATH.is_file():
        return Settings()
    source = path or DEFAULT_PATH
    try:
        text = source.read_bytes().decode()
        return msgspec.toml.decode(text, type=Settings)
    except OSError as error:
        raise SettingsError(f"can not read {source}: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source}, {describe(text, error, Settings)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{source}: {error}") from error


def _overlay(section: str, table: Section, environ: Mapping[str, str]) -> Section:
    """``table`` with what the variables of its section say; lists are split like ``PATH``."""
    prefix = f"EDGE_{section}_".upper()
    fields = {field.name: field for field in msgspec.structs.fields(table)}
    changes: dict[str, Any] = {}
    for variable in sorted(name for name in environ if name.startswith(prefix)):
        key = variable[len(prefix) :].lower()
        if key not in fields:
            known = ", ".join(f"{prefix}{name.upper()}" for name in fields)
            raise SettingsError(f"unknown variable {variable}", hint=f"there are: {known}")
        text = environ[variable]
        is_list = isinstance(fields[key].default, tuple)
        value = [part for part in text.split(os.pathsep) if part] if is_list else text
        try:
            changes[key] = msgspec.convert(value, fields[key].type, strict=False)
        except msgspec.ValidationError as error:
            raise SettingsError(f"{variable}={text!r}: {error}") from error
    try:
        return msgspec.structs.replace(table, **changes)
    except ValueError as error:
        raise SettingsError(f"{prefix}…: {error}") from error
