"""What the subcommands print: JSON, tables, and figures with units."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 80  # of output that is no terminal, so that a pipe shows what a user would see


@functools.cache
def _console(stream: str, isatty: bool) -> Console:
    from rich.console import Console

    return Console(
        stderr=stream == "stderr",
        highlight=False,
        soft_wrap=False,
        width=None if isatty else PLAIN_WIDTH,
    )


def out() -> Console:
    """The console on stdout: colour only on a terminal, none when ``NO_COLOR`` is set."""
    return _console("stdout", sys.stdout.isatty())


def err() -> Console:
    """The console on stderr, for progress and notes."""
    return _console("stderr", sys.stderr.isatty())


def say(text: str = "") -> None:
    """Print a line to stdout; rich markup such as ``[bold]…[/]`` is understood."""
    out().print(text)


def title(text: str, rest: str = "") -> None:
    """Print a bold line, with what is less important dim behind it; taken literally."""
    from rich.text import Text

    out().print(Text.assemble((text, "bold"), ("  " + rest, "dim") if rest else ""))


def print_json(value: Any) -> None:
    """Print a struct, or anything JSON can hold, as indented JSON."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
) -> None:
    """Print rows under headings; cells are taken as they are, never as markup.

    Args:
        right: Headings of the columns that hold figures, aligned to the right.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(
        title=Text(title, style="bold") if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        show_edge=False,
        header_style="dim",
    )
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    out().print(grid)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Print name and value one a line, names aligned; pairs with an empty value are left out."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value not in ("", None):
            grid.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    out().print(grid)


def size_text(size_bytes: float) -> str:
    """``1.52 MB``: decimal units, three significant digits."""
    value, unit = size_bytes, "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(value) < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{_three_digits(value)} {unit}"


def ms_text(milliseconds: float) -> str:
    """``4.12 ms``, with ``µs`` and ``s`` where they read better; three significant digits."""
    if abs(milliseconds) < 0.9995:
        return f"{_three_digits(milliseconds * 1000)} µs"
    if abs(milliseconds) < 999.5:
        return f"{_three_digits(milliseconds)} ms"
    return f"{_three_digits(milliseconds / 1000)} s"


def percent_text(share: float) -> str:
    """``94.6 %`` of a share in 0..1."""
    return f"{share * 100:.1f} %"


def _three_digits(value: float) -> str:
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f}"
