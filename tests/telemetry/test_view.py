from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from edge.telemetry.board import Board
from edge.telemetry.envelope import Sealer
from edge.telemetry.lines import json_line, plain_line
from edge.telemetry.view import render, sparkline
from edge.telemetry.watcher import Arrival

NOW_S = 1000.0


def arrival(
    path: str, metrics: dict[str, Any], *, is_retained: bool = False, ts_ms: int = 0
) -> Arrival:
    envelope = Sealer().seal(metrics)
    if ts_ms:
        envelope = msgspec.structs.replace(envelope, ts_ms=ts_ms)
    return Arrival(
        topic=f"edge/v1/plant/press-7/{path}",
        fleet="plant",
        device="press-7",
        path=path,
        envelope=envelope,
        metrics=metrics,
        is_retained=is_retained,
        at_s=NOW_S,
    )


def sample(rate: float = 10.0, **more: Any) -> dict[str, Any]:
    latency = {"infer": {"p50": 0.412, "p99": 12.34}}
    model = {"name": "digits", "version": "1", "success_per_s": rate, "latency_ms": latency}
    return {"window_s": 5.0, "models": [{**model, **more}]}


def text_of(*arrivals: Arrival, now_s: float = NOW_S, **options: str) -> str:
    board = Board()
    for one in arrivals:
        board.add(one)
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(render(board, now_s=now_s, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line_with(text: str, part: str) -> str:
    return next(line for line in text.splitlines() if part in line)


def test_board_without_messages_says_that_it_waits() -> None:
    assert "waiting" in text_of()


def test_board_shows_a_device_with_its_figures() -> None:
    text = text_of(
        arrival("status", {"state": "online"}),
        arrival("info", {"edge_version": "9.9", "arch": "aarch64", "cpu_cores": 6}),
        arrival(
            "tele/device",
            {
                "cpu_percent": 73.4,
                "memory_used_bytes": 2e9,
                "memory_total_bytes": 8e9,
                "temperature_max_celsius": 54.4,
                "power_total_watts": 4.935,
            },
        ),
    )
    assert "plant/press-7  online · edge 9.9 · aarch64 · 6 cores" in text
    gauges = line_with(text, "cpu")
    assert "━━━━━━━───  73 %" in gauges
    assert "25 % of 8.0 GB" in gauges
    assert "54 °C   4.9 W" in gauges


def test_device_without_a_thermometer_shows_no_temperature() -> None:
    assert "°C" not in text_of(arrival("tele/device", {"cpu_percent": 1.0}))


def test_board_shows_a_model_with_rate_latency_errors_and_engine() -> None:
    state = {"name": "digits", "version": "1", "state": "ready", "engine": "openvino"}
    text = text_of(
        arrival("model/digits", {**state, "precision": "int8"}),
        arrival("tele/model", sample(5.0)),
        arrival("tele/model", sample(1204.0, failure_count=3)),
    )
    assert line_with(text, "digits").split() == [
        "●", "digits", "1,204", "▁█", "0.412", "12.34", "3", "openvino", "int8"
    ]  # fmt: skip


def test_two_versions_of_a_model_are_told_apart() -> None:
    text = text_of(
        arrival("tele/model", sample()), arrival("tele/model", sample(version="2", engine="null"))
    )
    assert "digits 1" in text
    assert "digits 2" in text


@pytest.mark.parametrize(
    ("state", "mark"),
    [
        ({"state": "failed"}, "✗"),
        ({"state": "ready", "is_fallback": True}, "!"),
        ({"state": "building", "building": {"percent": 42}}, "!"),
    ],
)
def test_board_says_why_a_model_is_not_as_it_should_be(state: dict[str, Any], mark: str) -> None:
    why = {"name": "digits", "version": "1", "why": "there is no npu here"}
    assert f"{mark} digits 1: there is no npu here" in text_of(
        arrival("model/digits", {**why, **state})
    )


def test_offline_device_says_why() -> None:
    text = text_of(arrival("status", {"state": "offline", "reason": "connection lost"}))
    assert "offline (connection lost)" in text


def test_device_that_says_nothing_for_long_is_called_silent() -> None:
    online = arrival("status", {"state": "online"})
    assert "silent for 34 s" in text_of(online, now_s=NOW_S + 34)
    assert "silent" not in text_of(online, now_s=NOW_S + 4)


def test_retained_messages_do_not_make_a_device_sound_alive() -> None:
    board = Board()
    board.add(arrival("status", {"state": "online"}, is_retained=True))
    assert next(iter(board.devices.values())).heard_s == 0.0


def test_board_keeps_the_last_events() -> None:
    events = [
        arrival("event/model_state", {"name": f"m{n}", "from": "ready", "to": "failed"})
        for n in range(9)
    ]
    text = text_of(*events)
    assert "m8 ready → failed" in text
    assert "m1 ready" not in text


def test_heading_shows_where_messages_come_from_and_why_none_come() -> None:
    text = text_of(source="mqtt://host:1883", error="connection lost", footer="the end")
    assert line_with(text, "mqtt://host:1883").rstrip().endswith("✗ connection lost")
    assert text.rstrip().endswith("the end")


def test_board_fits_80_columns_whatever_the_names() -> None:
    long = "x" * 200
    text = text_of(
        arrival("model/x", {"name": long, "version": long, "state": "failed", "why": long}),
        arrival("tele/model", sample(1e9, name=long, engine=long, precision=long)),
        arrival("event/model_state", {"name": long, "from": long, "to": long}),
        source=long,
        error=long,
    )
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("values", "bars"), [([], ""), ([0, 0], "▁▁"), ([0, 1, 2], "▁▅█"), ([7], "█")]
)
def test_sparkline_is_scaled_to_the_largest(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars


@pytest.mark.parametrize(
    ("path", "metrics", "said"),
    [
        ("status", {"state": "offline", "reason": "closed"}, "offline · closed"),
        ("tele/device", {"cpu_percent": 12.4, "temperature_max_celsius": 54.0}, "cpu 12 % · 54 °C"),
        ("tele/model", sample(12.34), "digits 12.3/s p50 0.412 ms p99 12.34 ms"),
        (
            "tele/model",
            {"models": [{"name": "m", "version": v, "success_per_s": 1.0} for v in ("1", "2")]},
            "m 1 1.0/s · m 2 1.0/s",
        ),
        ("event/model_state", {"name": "m", "from": "a", "to": "b", "why": "c"}, "m a → b · c"),
        (
            "event/command",
            {"name": "load", "id": "a", "model": "m", "status": "failed", "reason": "full"},
            "load a m failed · full",
        ),
        ("event/gap", {"gap": {"count": 3, "reason": "full"}}, "lost messages: 3 · full"),
        ("event/gap", {"gap": {"count": 0, "reason": "cursor", "detail": "d"}}, "cursor · d"),
        ("event/gap", {"gap": {"count": None}}, "lost messages: not known how many"),
        (
            "tele/health",
            {"models": [{"name": "m", "drift": "off", "latency": "slow", "drift_index": {}}]},
            "m latency: slow",
        ),
        (
            "snapshot/a",
            {"name": "m", "version": "2", "kind": "png", "size_bytes": 1234, "data_base64": "iVBO"},
            "m 2 · png, 1,234 bytes",
        ),
        ("event/own", {"x": 3}, '{"x":3}'),
    ],
)
def test_plain_line_says_the_message_in_short(
    path: str, metrics: dict[str, Any], said: str
) -> None:
    assert plain_line(arrival(path, metrics)).partition(" ")[2] == f"plant/press-7 {path}: {said}"


def test_json_line_is_the_topic_and_the_envelope_as_it_came() -> None:
    one = arrival("tele/device", {"cpu_percent": 1.5})
    line = json.loads(json_line(one))
    assert line["topic"] == "edge/v1/plant/press-7/tele/device"
    assert line["retained"] is False
    assert line["id"] == one.envelope.id
    assert line["m"] == {"cpu_percent": 1.5}


def test_control_characters_never_reach_the_terminal() -> None:
    evil = "\x1b[2J\x07\n"
    one = arrival("model/x", {"name": evil, "version": evil, "state": "failed", "why": evil})
    event = arrival("event/x", {"name": evil, "from": evil, "to": evil})
    info = arrival("info", {"edge_version": evil, "arch": evil})
    status = arrival("status", {"state": evil})
    for text in (text_of(one, event, info, status), plain_line(one), plain_line(event)):
        assert not set("\x1b\x07") & set(text)
    assert "\n" not in plain_line(event)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
NAMES = """name version state why reason models latency_ms infer p50 success_per_s failure_count
engine cpu_percent memory_used_bytes memory_total_bytes temperature_max_celsius from to"""
known = st.sampled_from(NAMES.split())
paths = st.sampled_from(["status", "info", "tele/device", "tele/model", "event/x", "model/x", "?"])
nested = st.dictionaries(known, values, max_size=4)
metrics = st.dictionaries(known, values | nested | st.lists(nested, max_size=2), max_size=5)


@given(paths, metrics, st.integers(-(2**63), 2**63 - 1))
def test_no_message_breaks_the_view(path: str, said: dict[str, Any], ts_ms: int) -> None:
    one = arrival(path, said, ts_ms=ts_ms)
    assert plain_line(one)
    assert json.loads(json_line(one))["topic"]
    assert max(map(cell_len, text_of(one).splitlines())) <= 80
