"""Devices that are none, but speak on MQTT as ``edge serve`` does, also of updates."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from patience import LONG_S

from edge.telemetry.address import parse_address
from edge.telemetry.envelope import Sealer, encode
from edge.telemetry.link import Link, Received
from edge.telemetry.topics import Topics, split

ROUND_S = 1.0
NONSENSE = b'{"status": ["?"'
FORMER = ("0", "old")  # version and digest


class SimulatedFleet:
    """One thread and one connection for all of its devices.

    Args:
        fates: By name: ``good``, or what becomes of a command there: ``refuses``, ``unfit``,
            ``nonsense``, ``deaf``; or of the bundle in service: ``errors``, ``reverts``, ``slow``;
            ``away`` is deaf, and offline.
        digests: The digest of the bundle by the SHA-256 of its file; of the one from before.
    """

    def __init__(
        self, url: str, fates: dict[str, str], digests: dict[str, str], model: str = "digits"
    ) -> None:
        self.fates = fates
        self.served = dict.fromkeys(fates, FORMER)
        self.runs: Counter[tuple[str, str, str]] = Counter()
        self.chunks: Counter[str] = Counter()
        self.most_at_once = 0
        self._digests = digests
        self._model = model
        self._parts: defaultdict[tuple[str, str], dict[int, bytes]] = defaultdict(dict)
        self._rounds: Counter[tuple[str, str]] = Counter()
        self._asked_s: dict[tuple[str, str], float] = {}
        self._under_way: dict[tuple[str, str], dict[str, Any]] = {}
        self._ended: dict[tuple[str, str], dict[str, Any]] = {}
        self._samples: Counter[str] = Counter()
        self._sealer = Sealer()
        self._stop = threading.Event()
        self._link = Link(parse_address(url), client_id="simulated", timeout_s=LONG_S)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> SimulatedFleet:
        self._link.open()
        while self._link.state == "connecting":
            self._link.step(LONG_S)
        assert self._link.state == "connected", self._link.reason
        self._link.subscribe("edge/v1/plant/+/cmd/#", "edge/v1/plant/+/desired")
        for device in self.fates:
            state = "offline" if self.fates[device] == "away" else "online"
            self._tell(device, "status", {"state": state}, is_retained=True)
            self._tell(device, "info", {"edge_version": "9.9"}, is_retained=True)
            self._tell_model(device)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._link.disconnect()

    def _run(self) -> None:
        ticks = 0
        while not self._stop.is_set() and self._link.is_open:
            self._link.step(0.05)
            while self._link.received:
                self._handle(self._link.received.popleft())
            self._ask_again()
            ticks += 1
            if ticks % 4 == 0:
                for device in self.fates:
                    self._sample(device)

    def _sample(self, device: str) -> None:
        version, digest = self.served[device]
        row: dict[str, Any] = {"name": self._model, "version": version, "success_per_s": 10.0}
        if digest != "old":
            self._samples[device] += 1
        count = 10 * self._samples[device]
        row |= {"success_count": count, "failure_count": 0, "failure_per_s": 0.0}
        if digest != "old" and self.fates[device] == "errors":
            row["failure_count"] = count
        self._tell(device, "tele/model", {"window_s": 0.2, "models": [row]})
        if digest != "old" and self.fates[device] == "slow":
            self._tell(device, "tele/health", {"models": [{**row, "latency": "slow"}]})
        if self.fates[device] == "reverts" and self._samples[device] == 3:
            self._serve(device, *FORMER)

    def _handle(self, received: Received) -> None:
        _, device, path = split(received.topic)
        verb, _, rest = path.removeprefix("cmd/").partition("/")
        id_, _, chunk = rest.partition("/chunk/")
        if self.fates.get(device, "deaf") in ("deaf", "away"):
            return
        if path == "desired":
            self._converge(device, received.payload)
        elif chunk:
            self._receive(device, id_, int(chunk), received.payload)
        elif not received.payload:
            self._under_way.pop((device, id_), None)
        elif received.payload != NONSENSE:
            command = msgspec.json.decode(received.payload)
            if command["status"] == "init":
                self._begin(device, verb, id_, command)

    def _converge(self, device: str, payload: bytes) -> None:
        if not payload:
            return
        desired = msgspec.json.decode(payload)
        version = desired["models"][self._model]["version"]
        is_there = version in ("0", "1")
        if is_there:
            self._serve(device, version, f"digest of {version}")
        told = {"state": "converged"} if is_there else {"state": "failed", "reason": "no such"}
        reported = msgspec.json.encode({"rev": desired["rev"], **told})
        self._link.send(Topics("plant", device).of("reported"), reported, is_retained=True)

    def _begin(self, device: str, verb: str, id_: str, command: dict[str, Any]) -> None:
        if (device, id_) in self._ended:
            self._answer(device, verb, id_, self._ended[device, id_])
            return
        if (device, id_) not in self._under_way:
            self.runs[device, verb, id_] += 1
        if self.fates[device] == "nonsense":
            topic = Topics("plant", device).of("cmd", verb, id_)
            self._link.send(topic, NONSENSE, is_retained=True)
            return
        if verb == "update" and "transfer" in command:
            self._under_way[device, id_] = command
            self.most_at_once = max(self.most_at_once, len(self._under_way))
            self._ask(device, id_)
        else:
            self._end(device, verb, id_, command)

    def _ask(self, device: str, id_: str) -> None:
        command = self._under_way[device, id_]
        transfer, parts = command["transfer"], self._parts[device, id_]
        count = -(-transfer["size_bytes"] // transfer["chunk_bytes"])
        missing = [[index, index + 1] for index in range(count) if index not in parts]
        received = sum(map(len, parts.values()))
        round_ = self._rounds[device, id_]
        state = {"missing": missing[:32], "received_bytes": received, "round": round_}
        self._asked_s[device, id_] = time.monotonic()
        self._answer(device, "update", id_, {**command, "status": "executing", **state})

    def _ask_again(self) -> None:
        """For what did not come: a broker may drop chunks."""
        now_s = time.monotonic()
        for key in self._under_way:
            if now_s - self._asked_s.get(key, now_s) > ROUND_S:
                self._rounds[key] += 1
                self._ask(*key)

    def _receive(self, device: str, id_: str, index: int, payload: bytes) -> None:
        command = self._under_way.get((device, id_))
        if command is None:
            return
        self.chunks[device] += 1
        parts = self._parts[device, id_]
        parts[index] = payload
        if sum(map(len, parts.values())) < command["transfer"]["size_bytes"]:
            self._ask(device, id_)
            return
        file = b"".join(part for _, part in sorted(parts.items()))
        assert hashlib.sha256(file).hexdigest() == command["sha256"]
        self._end(device, "update", id_, command)

    def _end(self, device: str, verb: str, id_: str, command: dict[str, Any]) -> None:
        fate = self.fates[device]
        told: dict[str, Any] = {"status": "successful", "result": {}}
        if verb == "update" and fate in ("refuses", "unfit"):
            kind = "unsupported" if fate == "unfit" else "failed"
            told = {"status": "failed", "reason": f"it {fate}", "kind": kind}
        elif verb == "update":
            self._serve(device, command["version"], self._digests[command["sha256"]])
        elif verb == "roll-back":
            self._serve(device, *FORMER)
        self._under_way.pop((device, id_), None)
        self._ended[device, id_] = {**command, **told}
        self._answer(device, verb, id_, self._ended[device, id_])

    def _serve(self, device: str, version: str, digest: str) -> None:
        self.served[device] = (version, digest)
        self._tell_model(device)

    def _tell_model(self, device: str) -> None:
        version, digest = self.served[device]
        state = {"name": self._model, "version": version, "digest": digest, "state": "ready"}
        self._tell(device, f"model/{self._model}", state, is_retained=True)

    def _answer(self, device: str, verb: str, id_: str, answer: dict[str, Any]) -> None:
        topic = Topics("plant", device).of("cmd", verb, id_)
        self._link.send(topic, msgspec.json.encode(answer), is_retained=True)

    def _tell(
        self, device: str, path: str, metrics: dict[str, Any], *, is_retained: bool = False
    ) -> None:
        payload = encode(self._sealer.seal(metrics))
        self._link.send(f"edge/v1/plant/{device}/{path}", payload, is_retained=is_retained)


def roll_out(url: str, bundle: Path, *more: str) -> list[str]:
    """What to type to roll a bundle out quickly."""
    quick = ["--soak", "0.1s", "--seconds", "1", "--unsigned", "--waves", "50%,100%"]
    return ["fleet", "roll-out", str(bundle), "--mqtt", url, "--fleet", "plant", *quick, *more]


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


def progress(result: dict[str, Any]) -> dict[str, str]:
    return {device: step["progress"] for device, step in result["steps"].items()}


def good(count: int) -> dict[str, str]:
    return {f"press-{n}": "good" for n in range(count)}
