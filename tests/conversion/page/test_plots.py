"""Where things are drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge.conversion.page import layers, memory, pareto, svg
from edge.conversion.page.labelling import Box, Mark, labels
from edge.conversion.report import LayerError, MemoryEstimate, MemoryStep, Report

TEXT = re.compile(r'<text x="([-.\d]+)" y="([-.\d]+)"[^>]*>([^<]*)</text>')


def boxes(drawn: Sequence[str]) -> list[Box]:
    found = [TEXT.fullmatch(item) for item in drawn]
    return [
        Box(x, y - 11, x + svg.LETTER * len(match[3]), y + 3)
        for match in found
        if match
        for x, y in [(float(match[1]), float(match[2]))]
    ]


def test_labels_of_marks_in_one_place_do_not_overlap() -> None:
    marks = [Mark(200.0 + n, 150.0, 8.0, f"int8-number-{n}") for n in range(7)]
    placed = boxes(list(labels(marks, Box(50, 30, 400, 300))))
    assert len(placed) == 7
    assert all(one.overlap(other) < 20 for one, other in combinations(placed, 2))


def test_labels_leave_obstacles_alone() -> None:
    obstacle = Box(210, 130, 400, 170)
    (placed,) = boxes(list(labels([Mark(200, 150, 6, "int8")], Box(50, 30, 400, 300), [obstacle])))
    assert placed.overlap(obstacle) == 0


def test_labels_stay_within_the_frame() -> None:
    frame = Box(50, 30, 330, 300)
    marks = [Mark(x, y, 6.0, "a-long-label") for x in (52.0, 328.0) for y in (32.0, 298.0)]
    assert all(box.outside(frame) < 1 for box in boxes(list(labels(marks, frame))))


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), count=st.integers(2, 9))
def test_ticks_are_few_round_and_within_the_scale(low: float, span: float, count: int) -> None:
    found = svg.Scale(low, low + span, 0, 100).ticks(count)
    assert 1 <= len(found) <= count + 2
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in found)


def test_log_scale_gives_equal_room_to_equal_ratios() -> None:
    scale = svg.Scale(1, 100, 0, 100, is_log=True)
    assert scale.at(10) == pytest.approx(50)
    assert scale.ticks(5) == [1, 2, 5, 10, 20, 50, 100]


def test_loss_far_beyond_the_gate_is_drawn_at_the_edge_with_its_figure(report: Report) -> None:
    drawn = pareto.plot(report)
    assert "int8-plain (26.7)" in drawn
    assert "&gt; 0.5" in drawn


def test_gate_is_drawn_above_what_it_lets_pass(report: Report) -> None:
    drawn = pareto.plot(report).partition("</svg>")[0]
    gate = re.search(r'<line x1="\S+" y1="(\S+)"[^>]*class="gate"', drawn)
    chosen = re.search(r'<polygon points="\S+?,(\S+) [^>]*class="ring"', drawn)
    assert gate
    assert chosen
    assert float(gate[1]) < float(chosen[1]) - 15


def test_front_is_a_stair_that_goes_down(report: Report) -> None:
    drawn = pareto.plot(report).partition("</svg>")[0]
    line = re.search(r'<path d="M([^"]+)" class="front-line"', drawn)
    assert line
    points = [tuple(map(float, point.split(","))) for point in line[1].split(" L")]
    assert points == sorted(points)
    assert all(x1 == x2 or y1 == y2 for (x1, y1), (x2, y2) in pairwise(points))


def test_one_variant_is_no_trade_off(report: Report) -> None:
    assert pareto.plot(replace(report, variants=report.variants[:1])) == ""


def test_layers_that_a_variant_adds_stand_behind_what_they_follow() -> None:
    def curve(name: str, number: int, layers_: str) -> layers.Curve:
        return layers.Curve(name, number, tuple(LayerError(n, "Conv", 30, 1) for n in layers_))

    order = layers.merged_order(
        [curve("a", 0, "abde"), curve("b", 1, "abcef"), curve("c", 2, "xe")]
    )
    assert order == ["x", "a", "b", "c", "d", "e", "f"]


def test_worst_layers_are_the_ten_with_the_most_noise(report: Report) -> None:
    worst = layers.worst_layers(layers.curves(report))
    assert len(worst) == 10
    assert worst[0].name == "/features/40/Conv_output_0"
    assert [row.lowest for row in worst] == sorted(row.lowest for row in worst)
    assert worst[0].sqnr_db == tuple(
        report.layers[c.variant][40].sqnr_db for c in layers.curves(report)
    )


def test_equal_and_unlike_tensors_stay_within_the_plot(report: Report) -> None:
    extremes = tuple(LayerError(f"n{db}", "Conv", db, 1.0) for db in (-300.0, 30.0, 300.0))
    drawn = layers.plot(layers.curves(replace(report, layers={"openvino-int8": extremes})))
    heights = [float(y) for y in re.findall(r'<circle cx="\S+" cy="(\S+)"', drawn)]
    assert heights
    assert all(layers.TOP <= y <= layers.HEIGHT - layers.BOTTOM for y in heights)


def test_peak_of_memory_is_marked_where_it_is() -> None:
    steps = tuple(MemoryStep(f"n{n}", "Conv", size) for n, size in enumerate((1, 9, 4)))
    estimate = MemoryEstimate(5_000_000, 5_000_009, steps)
    peak = memory.peak_step(estimate)
    assert peak is not None
    assert peak.node == "n1"
    assert "<title>Conv n1</title>" in memory.plot(estimate)


def test_model_without_weights_or_activations_has_a_plot() -> None:
    assert "<svg" in memory.plot(MemoryEstimate(0, 0, (MemoryStep("n", "Identity", 0),)))
    assert memory.plot(MemoryEstimate(7, 7, ())) == ""
