"""What a deployment costs: pauses of the service while it switches, and many hosts at once.

    python benchmarks/deploy.py            # as root, with sshd: devices are namespaces here

The devices share this machine's cores, disk and loopback link; a fleet has its own. So many hosts
at once are measured twice: as they are here, and with stand-ins at the other end of the same ssh
and sshd that answer what a lone device answered, each time after as long as it took.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import resource
import shutil
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy_parts import MODEL_BYTES, SIDE, bring, make_bundle, settings_for, stand_in_wheels
from recorded_device import ANSWERS, player, recorder
from ssh_device import Device, needs

from edge.deploy import connection

ROUNDS = 5
HOSTS = 20
RESULTS = Path(__file__).parent / "results" / "deploy.json"


@contextmanager
def client(device: Device) -> Iterator[dict[str, Any]]:
    """Infers without a pause, a connection each; gives the longest wait and what failed."""
    data = [{"name": "x", "shape": [1, SIDE], "datatype": "FP32", "data": [1.0] * SIDE}]
    body = json.dumps({"inputs": data}).encode()
    told: dict[str, Any] = {"answers": 0, "failures": [], "longest_ms": 0.0}
    done = threading.Event()

    def infer() -> None:
        last = time.monotonic()
        while not done.is_set():
            try:
                request = urllib.request.Request(f"http://{device.http}/v2/models/m/infer", body)
                with urllib.request.urlopen(request, timeout=30) as answer:
                    answer.read()
            except OSError as error:
                told["failures"].append(str(error))
                continue
            now = time.monotonic()
            told["longest_ms"] = max(told["longest_ms"], (now - last) * 1000)
            told["answers"] += 1
            last = now

    thread = threading.Thread(target=infer)
    thread.start()
    try:
        yield told
    finally:
        done.set()
        thread.join()


def measure_switch(device: Device, folder: Path, wheels: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    version = 1
    for how in ("live", "restart"):
        rounds = []
        for number in range(ROUNDS):
            version += 1
            more = f"drain_s = {10 + number}\n"
            config = settings_for(device, folder, more) if how == "restart" else None
            with client(device) as told:
                (outcome,) = bring([device], make_bundle(folder, version), config, wheels)
                time.sleep(0.5)
            if outcome.takeover != how:
                raise SystemExit(f"{outcome.takeover} instead of {how}")
            rounds.append({**told, "failures": len(told["failures"])})
        longest = [one["longest_ms"] for one in rounds]
        found[how] = {
            "longest_wait_ms": {"median": statistics.median(longest), "max": max(longest)},
            "failures": sum(one["failures"] for one in rounds),
            "answers": sum(one["answers"] for one in rounds),
            "rounds": rounds,
        }
    return found


def measure_hosts(disk: Path, folder: Path, wheels: Callable[..., Any]) -> dict[str, Any]:
    """An update of one model to one host and to all: real devices, then stand-ins for them."""
    devices = []
    try:
        for number in range(HOSTS):
            place = folder / f"host{number}"
            place.mkdir()
            device = Device(place, f"host{number}")
            device.make(disk)
            device.boot()
            devices.append(device)
        for device in devices:
            while device.versions() != {"m": "1"}:
                time.sleep(0.1)
        alone, together, played_alone, played = [], [], [], []
        players = []
        for number in range(ROUNDS):
            one = devices[number : number + 1]
            with program_is(recorder):
                alone.append(timed(one, make_bundle(folder, 100 + 2 * number), wheels))
            players.append(player(one[0].path(ANSWERS)))
            together.append(timed(devices, make_bundle(folder, 101 + 2 * number), wheels))
        newest = make_bundle(folder, 200)
        for number in range(ROUNDS):
            with program_is(itertools.repeat(players[number]).__next__):
                played_alone.append(timed(devices[:1], newest, wheels))
            with program_is(itertools.cycle(players).__next__):
                played.append(timed(devices, newest, wheels))
        return {
            "hosts": HOSTS,
            "sharing_cores": compared(alone, together),
            "own_cores": compared(played_alone, played),
        }
    finally:
        for device in devices:
            device.cut_power()


@contextmanager
def program_is(program: Callable[[], bytes]) -> Iterator[None]:
    """What is sent to run at the other end."""
    ours = connection.program
    connection.program = program
    try:
        yield
    finally:
        connection.program = ours


def timed(devices: list[Device], bundle: Path, wheels: Callable[..., Any]) -> dict[str, float]:
    before, start_s = _cpu_s(), time.monotonic()
    bring(devices, bundle, None, wheels)
    return {"seconds": time.monotonic() - start_s, "workstation_cpu_s": _cpu_s() - before}


def compared(alone: list[dict[str, float]], together: list[dict[str, float]]) -> dict[str, Any]:
    one, every = (statistics.median(t["seconds"] for t in some) for some in (alone, together))
    return {
        "one_s": one,
        "all_s": every,
        "ratio": every / one,
        "workstation_cpu_s": statistics.median(one["workstation_cpu_s"] for one in together),
        "rounds": {"one": alone, "all": together},
    }


def _cpu_s() -> float:
    """Of this process and of the ssh that it started and that has ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, who))


def main() -> None:
    if reason := needs():
        raise SystemExit(reason)
    folder = Path(tempfile.mkdtemp(prefix="edge-deploy-"))
    wheels = stand_in_wheels(folder)
    device = Device(folder / "device", "device")
    device.folder.mkdir()
    try:
        device.make()
        device.boot()
        first = settings_for(device, folder)
        bring([device], make_bundle(folder, 1), first, wheels)
        device.cut_power()
        disk = folder / "disk"
        disk.mkdir()
        device.copy_to(disk)
        device.boot()
        while device.versions() != {"m": "1"}:
            time.sleep(0.1)
        switching = measure_switch(device, folder, wheels)
        device.cut_power()
        hosts = measure_hosts(disk, folder, wheels)
    finally:
        device.cut_power()
        shutil.rmtree(folder, ignore_errors=True)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    result = {"machine": machine, "model_bytes": MODEL_BYTES, "switch": switching, "hosts": hosts}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


def markdown(result: dict[str, Any]) -> str:
    rows = [
        f"| {how} | {wait['median']:.0f} ms | {wait['max']:.0f} ms "
        f"| {one['failures']} of {one['answers']:,} |"
        for how, one in result["switch"].items()
        for wait in [one["longest_wait_ms"]]
    ]
    kinds = {
        "one machine runs them all": "sharing_cores",
        "stand-ins that wait as long as one device worked": "own_cores",
    }
    hosts = result["hosts"]
    many = [
        f"| {title} | {hosts[key]['one_s']:.1f} s | {hosts[key]['all_s']:.1f} s "
        f"| {hosts[key]['ratio']:.1f} | {hosts[key]['workstation_cpu_s']:.1f} s |"
        for title, key in kinds.items()
    ]
    return "\n".join(
        [
            "# What a deployment costs",
            "",
            f"On {result['machine']}; made by `python benchmarks/deploy.py`. Devices are",
            "namespaces of this machine with an sshd each, and share its cores and its disk.",
            "",
            f"A client asks all the time while a model of {result['model_bytes'] / 1e6:.0f} MB is",
            f"replaced, {ROUNDS} times each. To reach: a pause of at most 1 s.",
            "",
            "| switch | longest wait, median | longest wait | failed |",
            "|---|---:|---:|---:|",
            *rows,
            "",
            f"An update to {HOSTS} hosts at once, against one alone, medians of {ROUNDS}.",
            "To reach: twice as long. A fleet's devices have processors of their own, and these",
            "share one machine's with the workstation. So the second line has stand-ins at the",
            "other end of the same ssh and sshd: they take all that is sent, answer what a device",
            "alone answered, and only wait meanwhile, as long as that one worked. What sshd and",
            "the start of a Python cost is still taken from the same cores. Most of what the",
            "workstation takes is ssh's: a key exchange that withstands quantum computers.",
            "",
            f"| devices | one | {HOSTS} | times as long | of a core, by the workstation |",
            "|---|---:|---:|---:|---:|",
            *many,
            "",
        ]
    )


if __name__ == "__main__":
    main()
