"""``edge build``: make a bundle's engines on this machine, ahead of time."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.cli import _output
from edge.cli._progress import bars

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.host import Outcome, Wish
    from edge.host.ahead import Follow

HELP = "build engines on this machine ahead of time, where a bundle has to"

_MARKS = {"built": "[green]✓[/]", "present": "[green]✓[/]", "failed": "[red]✗[/]"}
_NEUTRAL = "○"


class BundleBuild(msgspec.Struct, frozen=True):
    """One bundle; ``variants`` are those that have to be built."""

    bundle: str
    name: str
    version: str
    variants: tuple[Outcome, ...]


class Builds(msgspec.Struct, frozen=True):
    """What ``--json`` prints."""

    bundles: tuple[BundleBuild, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--engine", help="only variants for this engine")
    parser.add_argument(
        "--variant", metavar="ID", help="only this variant; edge inspect lists them"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from edge.bundle import open_bundle
    from edge.host import Wish

    wish = Wish(variant=args.variant or "", engine=args.engine or "")
    with ExitStack() as stack:
        # All of them first: that one is damaged should not be learned after minutes of building.
        opened = [stack.enter_context(open_bundle(path)) for path in args.bundles]
        builds = Builds(tuple(_build(bundle, wish) for bundle in opened))
    if args.json:
        _output.print_json(builds)
    else:
        for build in builds.bundles:
            _print(build)
    return _exit_code(builds)


def _build(bundle: Bundle, wish: Wish) -> BundleBuild:
    with bars() as progress:

        def follow(variant: str, phase: str, share: float) -> None:
            if progress is not None:
                progress(variant, round(share * 100), 100)

        outcomes = _interruptible(bundle, wish, follow)
    manifest = bundle.manifest
    return BundleBuild(str(bundle.path), manifest.name, manifest.version, outcomes)


def _interruptible(bundle: Bundle, wish: Wish, follow: Follow) -> tuple[Outcome, ...]:
    """``build_ahead`` on a thread, as an engine's builder does not look at signals."""
    from edge.host import build_ahead

    done: Future[tuple[Outcome, ...]] = Future()

    def work() -> None:
        try:
            done.set_result(build_ahead(bundle, wish, follow))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, name="edge-build", daemon=True).start()
    try:
        return done.result()
    except KeyboardInterrupt:
        _leave_now()
        raise


def _leave_now() -> None:
    """End past the builder, which nothing stops; what it has not finished is never loaded."""
    from edge.cli._main import EXIT_INTERRUPTED

    print("interrupted", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(EXIT_INTERRUPTED)


def _exit_code(builds: Builds) -> int:
    """3 if a build failed, or no engine that has to be built can be here."""
    from edge.cli import _main

    states = {variant.state for build in builds.bundles for variant in build.variants}
    is_missing = "failed" in states or states == {"skipped"}
    return _main.EXIT_UNAVAILABLE if is_missing else _main.EXIT_DONE


def _print(build: BundleBuild) -> None:
    from rich.markup import escape

    _output.say()
    _output.title(f"{build.name} {build.version}", build.bundle)
    if not build.variants:
        _output.say("[dim]· nothing has to be built: its engines take the files as they are[/]")
    for variant in build.variants:
        mark = _MARKS.get(variant.state, _NEUTRAL)
        _output.say(f"{mark} {variant.id}: {escape(_summary(variant))}")
        for note in variant.notes:
            _output.say(f"  [dim]{escape(note)}[/]")
        if variant.path:
            _output.say(f"  [dim]{escape(variant.path)}[/]")
        if variant.hint:
            _output.say(f"  [dim]hint: {escape(variant.hint)}[/]")


def _summary(variant: Outcome) -> str:
    if variant.state == "skipped":
        return f"not built here: {variant.reason}"
    if variant.state == "failed":
        return f"{variant.engine} failed: {variant.reason}"
    size = _output.size_text(variant.size_bytes)
    if variant.state == "present":
        return f"was there, {size}"
    return f"built in {_output.ms_text(variant.seconds * 1000)}, {size}"
