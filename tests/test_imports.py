"""Every module imports in a bare environment; a device installs only what it runs."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge
import edge.host

ROOT = Path(__file__).parent.parent
PACKAGES = ("edge", "converters", "runtimes", "device_profiles")
SDKS = (
    *("amqtt", "cryptography", "cv2", "nncf", "onnx", "onnxruntime", "onnxslim", "openvino"),
    *("paho", "pycuda", "tensorrt", "torch", "tritonclient"),
)

# In a fresh interpreter, as an SDK that another test imported would hide what is asked here.
PROBE = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

blocked, modules = (argument.split(",") for argument in sys.argv[1:])
sys.meta_path.insert(0, Blocked())
failed = []
for module in modules:
    try:
        importlib.import_module(module)
    except ImportError as error:
        failed.append(f"{module}: {error}")
sys.exit("\\n".join(failed))
"""


def modules() -> list[str]:
    """Names of all modules, but for the one that runs the command line when it is imported."""
    inner = [
        module.name
        for package in PACKAGES
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
    ]
    return [*PACKAGES, *(name for name in inner if not name.endswith(".__main__"))]


def refused(names: list[str], blocked: tuple[str, ...]) -> str:
    """The modules that can not be imported without what is blocked, and why."""
    command = [sys.executable, "-W", "error", "-c", PROBE, ",".join(blocked), ",".join(names)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stderr.strip()


def test_every_module_imports_without_any_sdk() -> None:
    names = modules()
    assert {"edge.host.model", "converters.onnx", "runtimes.openvino"} <= set(names)
    assert refused(names, SDKS) == ""


def test_the_vocabulary_and_the_command_line_import_without_numpy() -> None:
    first = ("edge", "edge.core", "edge.cli", "edge.settings")
    names = [
        name for name in modules() if name in first or name.startswith(("edge.core.", "edge.cli."))
    ]
    assert refused(names, (*SDKS, "numpy", "rich")) == ""


def test_import_edge_loads_the_standard_library_alone() -> None:
    code = "import sys, edge; dir(edge); print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    # What the environment's own .pth files load at every start is not ours.
    bare = subprocess.run(
        [sys.executable, "-c", code.replace(", edge; dir(edge)", "")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded - set(bare.stdout.split()) - set(sys.stdlib_module_names) == {"edge"}


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        # What a device without [health], [power] and [cost] would pay for in vain.
        ("edge.Runtime", ("edge.host.health", "edge.host.metering", "edge.sensors")),
        # Each command finds them all, and `edge --version` is one.
        ("edge.cli._main._parser([])", ("edge.telemetry.publisher", "edge.host.runtime", "rich")),
    ],
)
def test_what_is_not_asked_for_is_not_imported(code: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, edge, edge.cli._main; {code}; print(*{{*sys.modules}} & {{*{unwanted!r}}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_public_names_are_there() -> None:
    for name in edge.__all__:
        assert getattr(edge, name) is not None
    for name in edge.host._HOMES:
        assert getattr(edge.host, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        edge.no_such_name  # noqa: B018


def test_a_blocked_module_shows() -> None:
    assert "edge.host.goldens: numpy is blocked" in refused(["edge.host.goldens"], ("numpy",))
