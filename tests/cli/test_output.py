from __future__ import annotations

import json

import pytest

from edge.cli import _output
from edge.core.manifest import Latency


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_600, "1.00 MB"), (5e12, "5.00 TB")],
)
def test_sizes_have_three_digits_and_a_unit(size_bytes: float, text: str) -> None:
    assert _output.size_text(size_bytes) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.0234, "23.4 µs"), (1, "1.00 ms"), (99.96, "100 ms"), (999.7, "1.00 s"), (12345, "12.3 s")],
)
def test_durations_pick_the_unit_that_reads_best(milliseconds: float, text: str) -> None:
    assert _output.ms_text(milliseconds) == text


def test_table_fits_80_columns_and_takes_cells_literally(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _output.table("Variants", ["id", "note"], [["[red]a", "long " * 40]], right=["id"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("[red]a" in line for line in lines)


def test_output_to_a_pipe_has_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    _output.say("[bold red]text[/]")
    assert capsys.readouterr().out == "text\n"


def test_facts_leave_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    _output.facts([("name", "digits"), ("labels", "")])
    assert capsys.readouterr().out.split() == ["name", "digits"]


def test_json_holds_structs(capsys: pytest.CaptureFixture[str]) -> None:
    _output.print_json({"latency": Latency(p50=1.0, p99=2.0)})
    assert json.loads(capsys.readouterr().out) == {"latency": {"p50": 1.0, "p99": 2.0}}
