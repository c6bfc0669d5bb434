"""``edge serve``: models over HTTP, telemetry over MQTT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.errors import InputError, SettingsError, UnsupportedError
from edge.settings import Settings, load_settings, place_of

if TYPE_CHECKING:
    from edge.host import ModelStatus, Runtime
    from edge.server.supervision import Supervisor
    from edge.telemetry.sender import SenderStatus

    Tell = Callable[[list[ModelStatus], str], None]
    """Prints models, after what happened: ``serving``, or ``built``."""

HELP = "serve bundles over HTTP (KServe v2), and report over MQTT"

log = logging.getLogger(__name__)

_LOOK_S = 1.0  # how often builds are looked at


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(is_daemon=True)
    parser.add_argument("models", nargs="*", metavar="BUNDLE|DIR", help="what to serve")
    parser.add_argument("--http", metavar="HOST:PORT", help="where to listen; port 0: a free one")
    parser.add_argument("--mqtt", metavar="URL", help="report to this broker")
    parser.add_argument("--engine", help="only variants for this engine")
    parser.add_argument(
        "--fallback",
        choices=("deny", "warn", "allow"),
        help="whether another variant or device may serve, also while an engine is built",
    )
    parser.add_argument(
        "--memory", metavar="SIZE", help="what loaded models may hold together, as in 2GiB"
    )
    parser.add_argument("--config", type=Path, metavar="edge.toml", help="settings file")
    parser.add_argument(
        "--json", action="store_true", help="print what it says as JSON, a line each"
    )


def run(args: argparse.Namespace) -> int:
    from edge.bundle.signing import keyring_of
    from edge.host import Probation, Runtime
    from edge.server.http.listener import address_of, bind
    from edge.server.supervision import Supervisor

    settings = _settings(args)
    supervisor = Supervisor()
    if not settings.serve.models:
        raise InputError("nothing to serve", hint="name a bundle: edge serve model.edge")
    # The port first: that it is taken should not be learned after a minute of loading.
    address = settings.serve.http
    with supervisor.kept(address) or bind(address) as listening:
        url = f"http://{address_of(listening)}"
        _warn_of_strangers(listening, url)
        with Runtime(
            *settings.serve.models,
            engine=settings.serve.engine or None,
            fallback=settings.serve.fallback,
            models=settings.models,
            concurrency=settings.serve.concurrency,
            memory=settings.serve.memory or None,
            idle_s=settings.serve.idle_s,
            watch_s=settings.serve.watch_s,
            probation=Probation(settings.serve.probation_s, settings.serve.max_faults),
            power=settings.power,
            cost=settings.cost,
            pipelines=settings.pipelines,
            trust=keyring_of(settings.trust),
            health=settings.health,
        ) as runtime:
            _check_updates(settings, runtime.folders, args.config)
            tell = _tell_json if args.json else _tell
            is_clean = _run_loop(
                _serve(runtime, settings, listening, partial(tell, url), supervisor)
            )
            if not is_clean:
                _leave_now()
    return 0


async def _serve(
    runtime: Runtime,
    settings: Settings,
    listening: socket.socket,
    tell: Tell,
    supervisor: Supervisor,
) -> bool:
    """Serve until a signal comes; False if an engine is at work, loaded or made in the end."""
    from edge.server.service import Service

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    with _telemetry(runtime, settings) as broker:
        service = Service(runtime, settings.serve, broker)
        await service.start(listening)
        supervisor.serving(settings.serve.http, listening)
        watching = loop.create_task(supervisor.watch(runtime.status))
        loading = loop.create_task(service.load())
        waiting = loop.create_task(stopped.wait())
        await asyncio.wait((loading, waiting), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            told = runtime.status()
            tell(told, "serving")
            following = loop.create_task(_follow_builds(runtime, told, tell))
            waiting.add_done_callback(lambda _: following.cancel())
        await waiting
        supervisor.stopping()
        unfinished = await service.drain()
        watching.cancel()
    return unfinished == 0 and loading.done() and not runtime.is_loading


async def _follow_builds(runtime: Runtime, told: list[ModelStatus], tell: Tell) -> None:
    """Tell of a model again once its engine is made, or can't be."""
    building = {(status.name, status.version) for status in told if status.building}
    while building:
        statuses = {(status.name, status.version): status for status in runtime.status()}
        ended = {key for key in building if not statuses[key].building}
        if ended:
            tell([statuses[key] for key in sorted(ended)], "built")
        building -= ended
        await asyncio.sleep(_LOOK_S)


@contextlib.contextmanager
def _telemetry(runtime: Runtime, settings: Settings) -> Iterator[Callable[[], SenderStatus] | None]:
    """Report on the runtime meanwhile; a broker that is not there changes nothing.

    Gives what tells how it stands with the broker, if there is to be one.
    """
    if not settings.mqtt.url:
        yield None
        return
    from edge.telemetry import publish

    publisher = publish(runtime, settings, runtime=runtime)
    try:
        yield publisher.status
    finally:
        publisher.close()


def _settings(args: argparse.Namespace) -> Settings:
    """What the file and the environment say, with the flags laid over it."""
    settings = load_settings(args.config)
    flags = {
        "models": tuple(args.models),
        "http": args.http,
        "engine": args.engine,
        "fallback": args.fallback,
        "memory": args.memory,
    }
    given = {name: value for name, value in flags.items() if value}
    replace = msgspec.structs.replace
    mqtt = replace(settings.mqtt, url=args.mqtt) if args.mqtt else settings.mqtt
    try:
        serve = replace(settings.serve, **given)
    except ValueError as error:  # what the settings say of themselves, as of the file's
        raise InputError(f"--{error}") from error
    return replace(settings, serve=serve, mqtt=mqtt)


def _check_updates(settings: Settings, folders: list[Path], config: Path | None) -> None:
    """Raises ``SettingsError`` where updates are allowed and could never come."""
    if not (settings.commands.update and settings.mqtt.url):
        return
    from edge.telemetry.commands.verbs.update import means

    try:
        means(settings, folders)
    except (InputError, UnsupportedError) as error:
        place = place_of("commands", "update", config)
        raise SettingsError(f"{place} = true, and {error}", hint=error.hint) from error


def _warn_of_strangers(listening: socket.socket, url: str) -> None:
    host = listening.getsockname()[0]
    if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        log.warning("%s asks for no password: all who reach it may use its models", url)


def _tell_json(url: str, models: list[ModelStatus], event: str) -> None:
    shown = [msgspec.structs.replace(model, statistics=None) for model in models]
    line = {"http": url, "event": event, "models": shown}
    print(msgspec.json.encode(line).decode(), flush=True)


def _tell(url: str, models: list[ModelStatus], event: str) -> None:
    for model in models:
        print("\n".join(_lines(model)), flush=True)
    if event == "serving":
        print(f"serving {url}", flush=True)


def _lines(model: ModelStatus) -> Iterator[str]:
    placement = model.placement
    if placement is None:
        yield f"  {_without_session(model)}"
        return
    where = f"{model.engine} {model.precision} on {placement.actual}"
    yield f"  ✓ {model.name} {model.version}  {where}"
    yield f"    {'fallback: ' if model.is_fallback else ''}{model.choice}"
    if placement.reason:
        yield f"    asked for {placement.requested}: {placement.reason}"


def _without_session(model: ModelStatus) -> str:
    name = f"{model.name} {model.version}"
    if model.building:
        return f"· {name}  {model.reason}"
    if model.state == "idle":
        return f"· {name}  is loaded when it is used"
    return f"✗ {name}  {model.state}: {model.reason}"


def _run_loop(main: Coroutine[Any, Any, bool]) -> bool:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform; asyncio's own loop is slower, and as right
        return asyncio.run(main)
    return bool(uvloop.run(main))


def _leave_now() -> None:
    """Exit 0 past the threads: an inference that hangs would keep the interpreter for ever."""
    sys.stdout.flush()
    logging.shutdown()
    os._exit(0)
