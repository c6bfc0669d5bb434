"""The only reader of ``edge.toml`` and of ``EDGE_*`` variables."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from edge.core.errors import InputError, SettingsError
from edge.core.pipelines import Pipelines
from edge.core.profile import load_profile
from edge.core.sizes import parse_bytes
from edge.core.toml_places import describe

DEFAULT_PATH = Path("edge.toml")

MEMORY = "memory"

Positive = msgspec.Meta(gt=0)
Section = TypeVar("Section", bound=msgspec.Struct)


class Serve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``edge serve``. ``http`` is ``host:port``; ``drain_s`` bounds the wait at SIGTERM.

    ``fallback`` says whether another variant or device may serve than the preferred one. At most
    ``concurrency`` batches of all models run at the same time (0: any number), in fair turns.
    Loaded models hold at most ``memory`` (as "2GiB"; empty: this machine's less the system's
    share, "0": any number); what was not used for ``idle_s`` is unloaded (0: never). ``control``
    lets clients load and unload models. Folders are looked at every ``watch_s`` (0: only at the
    start); a version that takes over is taken back if within ``probation_s`` (0: never) more than
    the share ``max_faults`` of its requests fail in the engine.
    """

    models: tuple[str, ...] = ()
    http: str = "127.0.0.1:8000"
    engine: str = ""
    fallback: Literal["deny", "warn", "allow"] = "warn"
    concurrency: Annotated[int, msgspec.Meta(ge=0)] = 0
    memory: str = ""
    idle_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    control: bool = False
    watch_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    probation_s: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    max_faults: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.05
    drain_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    max_body_bytes: Annotated[int, Positive] = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        if not self.memory:
            return
        try:
            wanted = parse_bytes(self.memory)
        except InputError as error:
            raise ValueError(f"memory = {error}; {error.hint}") from error
        if wanted > (here := load_profile("host").memory.bytes) > 0:
            raise ValueError(
                f"memory = {self.memory!r}: this machine has {here >> 20:,} MiB in all"
            )


class Mqtt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The broker (``mqtt://[user:password@]host[:port]``, empty = no telemetry) and identity.

    What waits for the broker is in the folder ``outbox`` (empty: one in ``$XDG_STATE_HOME/edge``,
    "memory": it is lost with the process). ``version`` is that of the protocol.
    """

    url: str = ""
    version: Literal["3.1.1", "5"] = "3.1.1"
    outbox: str = ""
    fleet: str = "default"
    device: str = ""
    interval_s: Annotated[float, Positive] = 5.0
    keepalive_s: Annotated[int, Positive] = 30

    @property
    def device_name(self) -> str:
        return self.device or socket.gethostname()


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[models.<name>]``: how requests for one model are run.

    ``max_batch`` is how many rows may run as one; 1 keeps requests apart. ``max_delay_us`` is how
    long a batch may wait for company while its instance has nothing else to do. ``queue`` bounds
    how many requests wait, ``instances`` how many batches run at the same time. Up to
    ``cache_bytes`` of answers are remembered, and given again to the same inputs. ``share`` is
    what the model gets of a machine that is short, beside others with theirs. One that is
    ``pinned`` stays loaded, whoever else needs memory. In ``isolation`` it has a process for
    itself, which a crash takes along and nothing else; one that takes longer than ``timeout_s``
    for a run is ended (0: never), and started again.

    With ``cache = "perceptual"`` a frame gets the answer of one that was inferred if no block of 8
    by 8 pixels differs by more than ``cache_difference`` on average, as a share of what lies
    between the dark and the bright of the picture: but only ``cache_frames`` times in all, and
    only for ``cache_age_s``.
    """

    max_batch: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    max_delay_us: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    queue: Annotated[int, Positive] = 256
    instances: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    cache_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    cache: Literal["exact", "perceptual"] = "exact"
    cache_difference: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.02
    cache_frames: Annotated[int, Positive] = 30
    cache_age_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1.0
    share: Annotated[float, Positive] = 1.0
    pinned: bool = False
    isolation: Literal["inproc", "process"] = "inproc"
    timeout_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0

    def __post_init__(self) -> None:
        if self.timeout_s and self.isolation == "inproc":
            raise ValueError('timeout_s needs isolation = "process": no other run can be ended')
        if self.cache == "perceptual" and not self.cache_bytes:
            raise ValueError('cache = "perceptual" needs cache_bytes, with room for some frames')


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[power]``: what gives way when the device throttles, or takes more than it may.

    ``policy``: ``throughput`` lets fewer batches run at once, down to one, then fewer start per
    second; ``latency`` leaves as many at once, and only starts fewer; ``watch`` looks on and says
    so; ``off`` does not look. ``budget_watts`` is for what the sensors measure as a whole and
    ``max_celsius`` for the warmest of them (0: only what the device itself says). No fewer than
    ``min_batches_per_s`` start, however bad it is. ``root`` is where ``sys`` and ``proc`` are
    found: in a container, where those of its host are.
    """

    policy: Literal["throughput", "latency", "watch", "off"] = "throughput"
    budget_watts: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 0.0
    max_celsius: Annotated[float, msgspec.Meta(ge=0, le=150)] = 0.0
    min_batches_per_s: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 1.0
    interval_s: Annotated[float, msgspec.Meta(ge=0.05, le=60)] = 1.0
    root: str = "/"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``models`` holds what differs from the defaults, by the name of the model.

    ``pipelines`` are models that work together, by a name of their own.
    """

    serve: Serve = Serve()
    mqtt: Mqtt = Mqtt()
    power: Power = Power()
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
        is_list = isinstance(getattr(table, key), tuple)
        value = [part for part in text.split(os.pathsep) if part] if is_list else text
        try:
            changes[key] = msgspec.convert(value, fields[key].type, strict=False)
        except msgspec.ValidationError as error:
            raise SettingsError(f"{variable}={text!r}: {error}") from error
    try:
        return msgspec.structs.replace(table, **changes)
    except ValueError as error:
        raise SettingsError(f"{prefix}…: {error}") from error
