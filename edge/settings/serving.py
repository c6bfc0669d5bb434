"""``[serve]`` and ``[models.<name>]``: what is served, and how requests are run."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edge.core.errors import InputError
from edge.core.profile import load_profile
from edge.core.sizes import parse_bytes

_Positive = msgspec.Meta(gt=0)


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
    max_body_bytes: Annotated[int, _Positive] = 256 * 1024 * 1024

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
    queue: Annotated[int, _Positive] = 256
    instances: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    cache_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    cache: Literal["exact", "perceptual"] = "exact"
    cache_difference: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.02
    cache_frames: Annotated[int, _Positive] = 30
    cache_age_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1.0
    share: Annotated[float, _Positive] = 1.0
    pinned: bool = False
    isolation: Literal["inproc", "process"] = "inproc"
    timeout_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0

    def __post_init__(self) -> None:
        if self.timeout_s and self.isolation == "inproc":
            raise ValueError('timeout_s needs isolation = "process": no other run can be ended')
        if self.cache == "perceptual" and not self.cache_bytes:
            raise ValueError('cache = "perceptual" needs cache_bytes, with room for some frames')
