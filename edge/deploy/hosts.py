"""The same work on many hosts at once, where what fails on one is no other's."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, Literal, ParamSpec, TypeVar

import msgspec

from edge.core.errors import EdgeError, UnavailableError

log = logging.getLogger(__name__)

Failure = Literal["refused", "unavailable", "defect"]

_Told = ParamSpec("_Told")
_Outcome = TypeVar("_Outcome", bound=msgspec.Struct)


def on_each(
    hosts: Sequence[str],
    parallel: int,
    report: Callable[Concatenate[str, _Told], None],
    act: Callable[[str, Callable[Concatenate[str, _Told], None]], _Outcome],
    failed: Callable[[str, Failure, str, str], _Outcome],
) -> list[_Outcome]:
    """``act`` for each host, which is given ``report``; its outcome has the ``seconds`` it took.

    Once this is interrupted, what they are at ends at the next thing that they report.

    Args:
        failed: Makes an outcome of a host and of why there is no other: the kind, the reason, and
            a hint.
    """
    is_over = threading.Event()

    def told(host: str, /, *args: _Told.args, **options: _Told.kwargs) -> None:
        if is_over.is_set():
            raise UnavailableError("it was interrupted")
        report(host, *args, **options)

    def guarded(host: str) -> _Outcome:
        start_s = time.monotonic()
        try:
            outcome = act(host, told)
        except UnavailableError as error:
            outcome = failed(host, "unavailable", str(error), error.hint)
        except EdgeError as error:
            outcome = failed(host, "refused", str(error), error.hint)
        except Exception as error:  # the others' outcomes are not lost for it
            log.debug("%s", host, exc_info=True)
            hint = "this is a defect of edge; run it again with --debug and report what it prints"
            outcome = failed(host, "defect", f"{type(error).__name__}: {error}", hint)
        return msgspec.structs.replace(outcome, seconds=round(time.monotonic() - start_s, 2))

    pool = ThreadPoolExecutor(max(1, parallel), thread_name_prefix="edge-hosts")
    try:
        return list(pool.map(guarded, hosts))
    finally:
        is_over.set()
        pool.shutdown(wait=False, cancel_futures=True)
