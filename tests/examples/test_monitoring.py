"""The recipes name what a device really tells."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from patience import LONG_S

from edge.bundle import pack
from edge.core.manifest import Manifest, Variant
from edge.core.tensor import TensorSpec
from edge.telemetry.broker import EmbeddedBroker
from edge.telemetry.watcher import Watcher

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parents[2] / "examples" / "monitoring"
PROMTOOL = shutil.which("promtool")
SETTINGS = """
[mqtt]
interval_s = 0.3
[cost]
currency = "EUR"
per_kwh = 0.3
device_price = 300
device_years = 5
idle_watts = 2
busy_watts = 8
"""


class Told(NamedTuple):
    """What one device said: its families of metrics with their labels, and messages by path."""

    families: dict[str, set[str]]
    messages: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("device")
    bundle = pack_zeros(folder)
    (folder / "edge.toml").write_text(SETTINGS)
    with EmbeddedBroker() as broker, Watcher(broker.url, timeout_s=LONG_S) as watcher:
        command = [sys.executable, "-m", "edge", "serve", str(bundle), "--json"]
        process = subprocess.Popen(
            [*command, "--http", "127.0.0.1:0", "--mqtt", broker.url, "--config", "edge.toml"],
            cwd=folder,
            env=environment(folder),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["http"]
            infer(url)
            messages = listen(watcher)
            with urllib.request.urlopen(f"{url}/metrics") as answer:
                families = parse(answer.read().decode())
        finally:
            process.terminate()
            process.communicate(timeout=LONG_S)
    return Told(families, messages)


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_STATE_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}


def pack_zeros(folder: Path) -> Path:
    (folder / "parts").mkdir()
    x, y = TensorSpec("x", "float32", (1, 2)), TensorSpec("y", "float32", (1, 1))
    variant = Variant("null-fp32", "null", "fp32", (), (x,), (y,), chosen=True)
    digest = "0" * 64
    manifest = Manifest(1, "zeros", "1", "tensors", "host", digest, (variant,))
    return pack(manifest, folder / "parts", folder / "zeros.edge")


def infer(url: str) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.0, 0.0]}
    body = json.dumps({"inputs": [tensor]}).encode()
    for _ in range(20):
        urllib.request.urlopen(f"{url}/v2/models/zeros/infer", body).read()


def listen(watcher: Watcher) -> dict[str, dict[str, Any]]:
    """The newest message of each path, once the model's tell of inferences."""
    messages: dict[str, dict[str, Any]] = {}
    deadline_s = time.monotonic() + LONG_S
    wanted = {"tele/device", "tele/model", "tele/cost"}
    while not (wanted <= messages.keys() and is_busy(messages)):
        assert time.monotonic() < deadline_s, sorted(messages)
        for arrival in watcher.poll(0.2):
            envelope = {"ts_ms": arrival.envelope.ts_ms, "m": arrival.metrics}
            messages[arrival.path] = envelope
    return messages


def is_busy(messages: Mapping[str, Any]) -> bool:
    rows = messages["tele/model"]["m"]["models"] + messages["tele/cost"]["m"]["models"]
    return len(rows) == 2 and rows[0]["success_count"] > 0


def parse(scrape: str) -> dict[str, set[str]]:
    """Family -> names of its labels, those of Prometheus itself included."""
    families: dict[str, set[str]] = {}
    for line in scrape.splitlines():
        if line.startswith("# TYPE "):
            families[line.split()[2]] = set()
            continue
        name = re.match(r"\w+", line)
        if name and not line.startswith("#"):
            families[family(name[0], families)] |= set(re.findall(r'(\w+)="', line))
    return families


def family(name: str, families: Mapping[str, object]) -> str:
    """The family that a sample of such a name belongs to."""
    for suffix in ("", "_sum", "_count", "_bucket"):
        if name.endswith(suffix) and name.removesuffix(suffix) in families:
            return name.removesuffix(suffix)
    raise AssertionError(f"no device tells {name}")


def check(expression: str, families: Mapping[str, set[str]]) -> None:
    """Each metric is one that a device tells, and each label that is chosen by is one of its."""
    found = re.findall(r"\b(edge_\w+)(?:\{([^}]*)\})?", expression)
    assert found or expression.startswith(("up{", "count(up{")), expression
    for name, matchers in found:
        labels = families[family(name, families)]
        chosen = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers)) - {"instance", "job"}
        assert not labels or chosen <= labels, f"{name} has no {chosen - labels}: {expression}"


def dashboard() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "grafana-dashboard.json").read_text()))


def expressions() -> list[str]:
    panels = dashboard()["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def alerts() -> list[str]:
    text = (FOLDER / "alerts.yml").read_text()
    return [
        " ".join(expression.split())
        for expression in re.findall(r"expr:(?: >)?\s+(.*?)\n +(?:for|labels):", text, re.DOTALL)
    ]


def test_dashboard_shows_only_what_devices_tell(told: Told) -> None:
    assert len(expressions()) > 30
    for expression in expressions():
        check(expression, told.families)
    for variable in dashboard()["templating"]["list"][1:]:
        check(variable["query"]["query"], told.families)


def test_alerts_look_only_at_what_devices_tell(told: Told) -> None:
    assert len(alerts()) == 11
    for expression in alerts():
        check(expression, told.families)


def test_a_metric_that_no_device_tells_would_be_found(told: Told) -> None:
    with pytest.raises(AssertionError, match="no device tells edge_model_inference"):
        check("rate(edge_model_inference[1m])", told.families)
    with pytest.raises(AssertionError, match="has no"):
        check('edge_model_state{sate="failed"}', told.families)


def test_dashboard_is_one_that_grafana_imports() -> None:
    found = dashboard()
    assert found["schemaVersion"] >= 39
    assert found["id"] is None
    ids = [panel["id"] for panel in found["panels"]]
    assert len(ids) == len(set(ids))
    for panel in found["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in found["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken)), "panels overlap"


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts-test.yml"),
    ],
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    ran = subprocess.run([str(PROMTOOL), *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_telegraf_finds_its_paths_in_what_devices_tell(told: Told) -> None:
    configuration = tomllib.loads((FOLDER / "telegraf.conf").read_text())
    consumers = configuration["inputs"]["mqtt_consumer"]
    assert len({consumer["client_id"] for consumer in consumers}) == len(consumers) == 3
    for consumer in consumers:
        (topic,) = consumer["topics"]
        (parsing,), (reading,) = consumer["topic_parsing"], consumer["json_v2"]
        assert parsing["topic"] == topic
        parts = dict(zip(parsing["tags"].split("/"), topic.split("/"), strict=True))
        assert parts["fleet"] == parts["device"] == "+"
        message = told.messages["/".join(topic.split("/")[4:])]
        assert isinstance(at(message, reading["timestamp_path"]), int)
        assert reading["timestamp_format"] == "unix_ms"
        (wanted,) = reading["object"]
        found = at(message, wanted["path"])
        rows = found if isinstance(found, list) else [found]
        assert rows
        assert all(tag in row for row in rows for tag in wanted.get("tags", ()))


def at(message: Any, path: str) -> Any:
    """What lies at a path of GJSON, of those that are names with dots between them."""
    for name in path.split("."):
        message = message[name]
    return message
