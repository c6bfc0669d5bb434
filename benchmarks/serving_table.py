"""The figures of `serving.py`, and the tables that they make."""

from __future__ import annotations

import statistics

import msgspec

BASE = ("FastAPI, JSON", "fp32")
PEERS = ("MLServer", "LitServe", "Triton, Python")
OPENVINO, CACHED = "edge on OpenVINO", "edge, response cache"
LEVERS_AT = 8
STEPS = (
    ("FP32 behind FastAPI, JSON tensors", BASE),
    ("raw bytes in place of JSON", ("FastAPI, raw bytes", "fp32")),
    ("our server in place of FastAPI", ("edge, one by one", "fp32")),
    ("INT8 in place of FP32", ("edge, one by one", "int8")),
    ("OpenVINO in place of ONNX Runtime", (f"{OPENVINO}, one by one", "int8")),
    ("requests in batches", (OPENVINO, "int8")),
    ("inputs that were seen before: the response cache", (CACHED, "int8")),
)
PAIRS = (
    ("edge", "fp32", "fp32"),
    ("edge", "int8", "int8"),
    (OPENVINO, "int8", "int8"),
    (OPENVINO, "int8", "fp32"),
)
"""Ours, its precision, and that of the peers it stands beside."""


class Spread(msgspec.Struct, frozen=True):
    """Median of the rounds, with the lowest and the highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(*(round(v, 3) for v in (statistics.median(values), min(values), max(values))))

    def __str__(self) -> str:
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


class Line(msgspec.Struct, frozen=True):
    """One server on one model at one concurrency; ``cpu_ms`` is per answer."""

    model: str
    server: str
    precision: str
    is_ours: bool
    concurrency: int
    answers: int
    per_s: Spread
    p50_ms: Spread
    p99_ms: Spread
    cpu_ms: Spread


class Result(msgspec.Struct, frozen=True):
    machine: str
    versions: dict[str, str]
    rounds: int
    block_s: float
    lines: tuple[Line, ...]
    note: str = ""


INTRODUCTION = """\
# Serving a real classifier

On {machine}, which also sends the load; {versions}.
Made by `python benchmarks/serving.py`, which says how; the figures are in `serving.json`.

Medians of {rounds} rounds of {block:g} s, with the lowest and the highest of them. `CPU` is that
of all the server's processes per answer, `× base` how many times more FastAPI with JSON at FP32
takes at the same concurrency. Servers batch unless the row says *one by one* (FastAPI does not).
All run one thread of ONNX Runtime on the same files, except where OpenVINO is named. In the tables
of ratios more than 1 says that ours is ahead, on any figure. MLServer and LitServe get base64, as
their HTTP takes no binary tensors.
"""


def markdown(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    text = INTRODUCTION.format(
        machine=result.machine,
        versions=versions,
        rounds=result.rounds,
        block=result.block_s,
    )
    text += f"\n{result.note}\n" if result.note else ""
    for model in dict.fromkeys(line.model for line in result.lines):
        lines = [line for line in result.lines if line.model == model]
        text += f"\n## {model}\n\n" + "\n".join([*_levers(lines), "", *_against(lines)]) + "\n"
        for clients in sorted({line.concurrency for line in lines}):
            text += f"\n### {model}, concurrency {clients}\n\n"
            text += "\n".join(_table([line for line in lines if line.concurrency == clients]))
            text += "\n"
    return text


def _table(lines: list[Line]) -> list[str]:
    base = next((line for line in lines if (line.server, line.precision) == BASE), None)
    rows = [
        "| server | precision | per second | p50, ms | p99, ms | CPU, ms | × base |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for line in lines:
        times = f"{base.cpu_ms.median / line.cpu_ms.median:.1f}" if base else ""
        server = f"**{line.server}**" if line.is_ours else line.server
        rows.append(
            f"| {server} | {line.precision} | {line.per_s} | {line.p50_ms} | {line.p99_ms} "
            f"| {line.cpu_ms} | {times} |"
        )
    return rows


def _levers(lines: list[Line]) -> list[str]:
    """What each step took off the CPU per answer, from the base on."""
    at = {(line.server, line.precision): line for line in lines if line.concurrency == LEVERS_AT}
    rows = [f"| lever, at concurrency {LEVERS_AT} | CPU, ms | this step | in all |"]
    rows.append("|---|---:|---:|---:|")
    first = before = at[BASE].cpu_ms.median
    for title, key in STEPS:
        now = at[key].cpu_ms.median
        rows.append(f"| {title} | {now:.2f} | {before / now:.2f}× | {first / now:.1f}× |")
        before = now
    return rows


def _against(lines: list[Line]) -> list[str]:
    """Ours over the best of the three on each figure."""
    rows = [
        "| ours / best of the three peers | concurrency | per second | p50 | p99 | CPU |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for server, precision, theirs in PAIRS:
        title = f"{server} {precision} / peers {theirs}"
        for clients in sorted({line.concurrency for line in lines}):
            here = [line for line in lines if line.concurrency == clients]
            ours = next(x for x in here if (x.server, x.precision) == (server, precision))
            peers = [x for x in here if x.server in PEERS and x.precision == theirs]
            cells = [ours.per_s.median / max(peer.per_s.median for peer in peers)]
            for figure in ("p50_ms", "p99_ms", "cpu_ms"):
                best = min(getattr(peer, figure).median for peer in peers)
                cells.append(best / getattr(ours, figure).median)
            rows.append(f"| {title} | {clients} | " + " | ".join(f"{c:.2f}×" for c in cells) + " |")
    return rows
