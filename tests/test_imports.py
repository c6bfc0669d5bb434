from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("edge", "converters", "runtimes", "device_profiles")
SDKS = (
    *("onnx", "onnxruntime", "onnxslim", "openvino", "nncf", "tensorrt", "pycuda", "torch"),
    *("cv2", "paho", "amqtt", "rich", "sklearn"),
)

# Python finds None in sys.modules and raises ModuleNotFoundError, as if it were not installed.
IMPORT_ALL = """
import importlib, json, sys, traceback
names, blocked = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(blocked))
failed = {}
for name in names:
    try:
        importlib.import_module(name)
    except BaseException:
        failed[name] = traceback.format_exc(limit=-2)
print(json.dumps(failed))
"""

NEWLY_LOADED = """
import json, sys
before = set(sys.modules)
import edge
dir(edge)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def _python(code: str, *arguments: str) -> object:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _modules() -> list[str]:
    """All of ours but ``__main__``, which runs the command line when it is imported."""
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.stem != "__main__"
    )


def test_every_module_imports_without_any_sdk() -> None:
    modules = _modules()
    assert {"edge.cli.run", "edge.host.model", "runtimes.onnxruntime"} <= set(modules)
    failed = _python(IMPORT_ALL, json.dumps([modules, SDKS]))
    assert failed == {}


def test_the_block_works() -> None:
    failed = _python(IMPORT_ALL, json.dumps([["onnxruntime", "json"], SDKS]))
    assert isinstance(failed, dict)
    assert list(failed) == ["onnxruntime"]


def test_import_edge_loads_nothing_but_the_standard_library() -> None:
    loaded = _python(NEWLY_LOADED)
    assert isinstance(loaded, list)
    tops = {name.partition(".")[0] for name in loaded}
    assert "edge" in tops
    assert tops - {"edge"} <= set(sys.stdlib_module_names)


def test_public_names_are_there() -> None:
    import edge

    for name in edge.__all__:
        assert getattr(edge, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        edge.no_such_name  # noqa: B018
