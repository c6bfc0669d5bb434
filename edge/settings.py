"""The only reader of ``edge.toml`` and of ``EDGE_*`` variables."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Mapping

import msgspec

from edge.core.errors import SettingsError

DEFAULT_PATH = Path("edge.toml")


class Serve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``edge serve``. ``http`` is ``host:port``; ``drain_s`` bounds the wait at SIGTERM."""

    models: tuple[str, ...] = ()
    http: str = "127.0.0.1:8000"
    engine: str = ""
    drain_s: float = 10.0
    max_body_bytes: int = 256 * 1024 * 1024


class Mqtt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The broker (``mqtt://[user:password@]host[:port]``, empty = no telemetry) and identity."""

    url: str = ""
    fleet: str = "default"
    device: str = ""
    interval_s: float = 5.0
    keepalive_s: int = 30

    @property
    def device_name(self) -> str:
        return self.device or socket.gethostname()


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    serve: Serve = Serve()
    mqtt: Mqtt = Mqtt()


def load_settings(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings file, then lay ``EDGE_<SECTION>_<KEY>`` variables over it.

    Args:
        path: A file that must exist; None reads ``edge.toml`` here if there is one.
    Raises:
        SettingsError: The file can't be read, or a key or value is not known.
    """
    tables = _read(path)
    for section in Settings.__struct_fields__:
        for key in getattr(Settings(), section).__struct_fields__:
            value = environ.get(f"EDGE_{section}_{key}".upper())
            if value is not None:
                is_list = key == "models"
                tables.setdefault(section, {})[key] = value.split(os.pathsep) if is_list else value
    try:
        return msgspec.convert(tables, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path or DEFAULT_PATH} or EDGE_*: {error}") from error


def _read(path: Path | None) -> dict[str, Any]:
    if path is None and not DEFAULT_PATH.is_file():
        return {}
    source = path or DEFAULT_PATH
    try:
        tables: dict[str, Any] = msgspec.toml.decode(source.read_bytes())
        return tables
    except OSError as error:
        raise SettingsError(f"can not read {source}: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise SettingsError(f"{source}: {error}") from error
