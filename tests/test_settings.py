from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edge.core.errors import SettingsError
from edge.settings import ModelSettings, Settings, load_settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edge.toml"


def test_without_file_and_variables_defaults_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(environ={}) == Settings()


def test_file_in_the_working_folder_is_read_unasked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text('[mqtt]\nfleet = "north"\n')
    monkeypatch.chdir(path.parent)
    assert load_settings(environ={}).mqtt.fleet == "north"


def test_variables_win_over_the_file(path: Path) -> None:
    path.write_text('[serve]\nhttp = "0.0.0.0:80"\ndrain_s = 3.0\n')
    settings = load_settings(path, {"EDGE_SERVE_DRAIN_S": "1.5", "EDGE_MQTT_KEEPALIVE_S": "60"})
    assert settings.serve.http == "0.0.0.0:80"
    assert settings.serve.drain_s == 1.5
    assert settings.mqtt.keepalive_s == 60


def test_variables_of_others_are_ignored(path: Path) -> None:
    path.touch()
    assert load_settings(path, {"EDGE_HOME": "/x", "EDGEX": "1", "PATH": "/bin"}) == Settings()


def test_a_list_is_split_like_path(path: Path) -> None:
    path.touch()
    environ = {"EDGE_SERVE_MODELS": os.pathsep.join(["a.edge", "", "models"])}
    assert load_settings(path, environ).serve.models == ("a.edge", "models")


def test_an_empty_variable_empties_a_list(path: Path) -> None:
    path.write_text('[serve]\nmodels = ["a.edge"]\n')
    assert load_settings(path, {"EDGE_SERVE_MODELS": ""}).serve.models == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[serve]\nhttq = 1\n", "httq"),
        ("[server]\n", "server"),
        ("[serve]\ndrain_s = 'soon'\n", "drain_s"),
        ("[serve]\nhttp = 8000\n", "http"),
        ("[serve]\nmax_body_bytes = 0\n", "max_body_bytes"),
        ("[mqtt]\ninterval_s = 0\n", "interval_s"),
        ("[models.digits]\nmax_bach = 8\n", "max_bach"),
        ("[models.digits]\nmax_batch = 0\n", "max_batch"),
        ("[models.digits]\ninstances = 0\n", "instances"),
        ("[models]\nmax_batch = 8\n", "models"),
        ("[models.digits]\nisolation = 'thread'\n", "isolation"),
        ("[models.digits]\ntimeout_s = 2\n", "timeout_s needs isolation"),
        ("[serve\n", "line 1"),
    ],
)
def test_what_a_file_may_not_hold_is_named_with_the_file(path: Path, text: str, named: str) -> None:
    path.write_text(text)
    with pytest.raises(SettingsError, match=named) as caught:
        load_settings(path, {})
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe[serve]")
    with pytest.raises(SettingsError, match=r"edge\.toml"):
        load_settings(path, {})


def test_a_file_that_was_asked_for_must_exist(path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(path, {})


def test_an_unknown_variable_is_named_with_those_that_exist(path: Path) -> None:
    path.touch()
    with pytest.raises(SettingsError, match="EDGE_SERVE_HTTQ") as caught:
        load_settings(path, {"EDGE_SERVE_HTTQ": "x"})
    assert "EDGE_SERVE_HTTP" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serve]\n\nhttq = ''", r"line 3, \[serve\]: .*`httq`; did you mean `http`\?"),
        ("\n[server]", r"line 2, the file: .*`server`; did you mean `serve`\?"),
        ("[models.a]\n# 1\nmax_bach = 8", r"line 3, \[models\.a\]: .*did you mean `max_batch`\?"),
        ("[serve]\nhttp = ''\nmemory = '2 elephants'", r"line 3, .*'2 elephants' is no size"),
        ("[models.a]\nqueue = 4\ncache = 'perceptual'", r"line 3, .*needs cache_bytes"),
        ("[models.a]\ncache_bytes = -1", r"line 2, \[models\.a\.cache_bytes\]"),
        ("[serve]\nhttp = ''\nhttp = ''\n", "line 3"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_settings(path, {})


def test_a_budget_that_is_none_is_named_with_its_variable(path: Path) -> None:
    path.touch()
    with pytest.raises(SettingsError, match=r"EDGE_SERVE_.*memory = '2 elephants' is no size"):
        load_settings(path, {"EDGE_SERVE_MEMORY": "2 elephants"})


@pytest.mark.parametrize("value", ["soon", "-1"])
def test_a_wrong_value_is_named_with_its_variable(path: Path, value: str) -> None:
    path.touch()
    with pytest.raises(SettingsError, match=f"EDGE_SERVE_DRAIN_S='{value}'"):
        load_settings(path, {"EDGE_SERVE_DRAIN_S": value})


def test_models_have_sections_by_their_names(path: Path) -> None:
    path.write_text('[models.digits]\nmax_batch = 8\n[models."yolox-nano"]\nqueue = 2\n')
    models = load_settings(path, {"EDGE_MODELS_DIGITS_QUEUE": "no such variable"}).models
    assert models["digits"] == ModelSettings(max_batch=8)
    assert models["yolox-nano"] == ModelSettings(queue=2)


def test_power_is_read_and_what_makes_no_sense_is_named(path: Path) -> None:
    path.write_text('[power]\npolicy = "latency"\nbudget_watts = 12.5\n')
    power = load_settings(path, environ={"EDGE_POWER_MAX_CELSIUS": "85"}).power
    assert (power.policy, power.budget_watts, power.max_celsius) == ("latency", 12.5, 85.0)
    for wrong in ('policy = "fast"', "budget_watts = -1", "max_celsius = nan", "interval_s = 0"):
        path.write_text(f"[power]\n{wrong}\n")
        with pytest.raises(SettingsError, match=wrong.partition(" ")[0]):
            load_settings(path, environ={})


def test_device_is_named_after_the_host_unless_told(path: Path) -> None:
    path.touch()
    assert load_settings(path, {}).mqtt.device_name == socket.gethostname()
    assert load_settings(path, {"EDGE_MQTT_DEVICE": "line-3"}).mqtt.device_name == "line-3"


PLATES = """
[pipelines.plates]
output = ["cars"]
[pipelines.plates.steps.cars]
model = "yolox_nano"
[pipelines.plates.steps.makes]
model = "mobilenet"
crop = "cars"
labels = ["car", "truck"]
min_score = 0.5
margin = 0.1
limit = 4
when = "cars.count > 0"
"""


def test_pipelines_are_read(path: Path) -> None:
    path.write_text(PLATES)
    plates = load_settings(path, {}).pipelines["plates"]
    assert plates.output == ("cars",)
    makes = plates.steps["makes"]
    assert (makes.crop, makes.labels, makes.limit) == ("cars", ("car", "truck"), 4)
    assert makes.when == "cars.count > 0"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'crop = "cars"',
            'corp = "cars"',
            r"line 8, \[pipelines\.plates\.steps\.makes\]: .*`corp`",
        ),
        ('model = "mobilenet"', "", "missing required field `model`"),
        ("limit = 4", "limit = 0", r"line 12, .*steps\.makes\.limit"),
        ("min_score = 0.5", "min_score = 5", "min_score"),
        ('crop = "cars"', "", "labels is about boxes, and crop names no step"),
        ('crop = "cars"', 'crop = "cars"\ninputs = { x = "cars.y" }', "crop or inputs, not both"),
        ("steps.makes", "steps.'a b'", "matching regex"),
        ("pipelines.plates", "pipelines.'a b'", "matching regex"),
        ('output = ["cars"]', 'outputs = ["cars"]', "unknown field `outputs`"),
    ],
)
def test_wrong_pipelines_are_named(path: Path, old: str, new: str, message: str) -> None:
    path.write_text(PLATES.replace(old, new))
    with pytest.raises(SettingsError, match=message):
        load_settings(path, {})


@pytest.mark.parametrize(
    ("size", "why"),
    [("much", "memory = 'much' is no size"), ("900 TiB", "memory = '900 TiB': this machine has")],
)
def test_a_budget_of_memory_that_can_not_be_is_named_with_its_place(
    tmp_path: Path, size: str, why: str
) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(f'[mqtt]\n\n[serve]\nmemory = "{size}"\n')
    with pytest.raises(SettingsError, match=rf"edge.toml, line 4, \[serve\]: {why}"):
        load_settings(path, {})
