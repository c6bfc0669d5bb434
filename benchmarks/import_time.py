"""What `import edge` takes in a fresh process, beside Python alone and what a program uses first.

    python benchmarks/import_time.py

Whole processes, in turns, timed from outside; the first of each is left out, as it fills the
disk's cache and writes .pyc files. Medians with quartiles.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from edge.core.machine import machine

RESULTS = Path(__file__).parent / "results"
STARTS = 40
TARGET_MS = 50
CODES = {
    "python alone": "pass",
    "import edge": "import edge",
    "import edge; edge.load": "import edge; edge.load",
}


class Spread(msgspec.Struct, frozen=True):
    """Milliseconds: median and quartiles."""

    median: float
    low: float
    high: float


class Result(msgspec.Struct, frozen=True):
    machine: str
    python: str
    starts: int
    processes_ms: dict[str, Spread]
    above_python_alone_ms: dict[str, Spread]


def measure() -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in CODES}
    for number in range(STARTS + 1):
        for name, code in CODES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            if number:
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def spread(values: object) -> Spread:
    low, median, high = (round(float(ms), 2) for ms in np.percentile(values, (25, 50, 75)))
    return Spread(median, low, high)


def markdown(result: Result) -> str:
    lines = [
        "# What import edge takes",
        "",
        f"On {result.machine}; Python {result.python}. Made by `python benchmarks/import_time.py`.",
        f"Medians (quartiles) of {result.starts} fresh processes each, in turns. To reach: at most",
        f"{TARGET_MS} ms for a process that imports edge.",
        "",
        "| process | ms | above python alone, ms |",
        "|---|---:|---:|",
    ]
    for name, ms in result.processes_ms.items():
        above = result.above_python_alone_ms.get(name)
        lines.append(f"| `{name}` | {text(ms)} | {text(above) if above else ''} |")
    return "\n".join(lines) + "\n"


def text(found: Spread) -> str:
    return f"{found.median:.1f} ({found.low:.1f} … {found.high:.1f})"


def main() -> int:
    times = measure()
    alone = times["python alone"]
    result = Result(
        machine=machine(),
        python=sys.version.split()[0],
        starts=STARTS,
        processes_ms={name: spread(found) for name, found in times.items()},
        above_python_alone_ms={
            name: spread(np.subtract(found, alone))
            for name, found in times.items()
            if found is not alone
        },
    )
    table = markdown(result)
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "import_time.md").write_text(table)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (RESULTS / "import_time.json").write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
