"""Records what the real bindings of TensorRT offer: names, signatures, members of enums.

    python tests/fakes/nvidia/record.py WHEELS...

The bindings' wheels need the vendor's libraries only to run; to be imported, empty ones of the same
names do, which a C compiler makes. Writes ``tensorrt-<version>.json`` beside this file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL"),
    *("getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry"),
    "initLibNvInferPlugins",
)
CLASSES = (
    *("Builder", "BuilderFlag", "CudaEngine", "DataType", "DeviceType", "ExecutionContext"),
    *("IBuilderConfig", "ICudaEngine", "IExecutionContext", "IHostMemory", "ILogger"),
    *("INetworkDefinition", "IOptimizationProfile", "IOutputAllocator", "IProgressMonitor"),
    *("ITensor", "ITimingCache", "MemoryPoolType", "NetworkDefinitionCreationFlag"),
    *("OnnxParser", "OnnxParserRefitter", "ParserError", "Refitter", "Runtime"),
    *("TensorIOMode", "TensorLocation"),
)
INSPECT = """
import json, sys
import tensorrt_bindings as trt
found = {"__version__": trt.__version__}
for name in json.loads(sys.argv[1]):
    kind = getattr(trt, name, None)
    if kind is None:
        continue
    members = getattr(kind, "__members__", None)
    if members is not None:
        found[name] = {member: "value" for member in members}
        continue
    found[name] = {
        member: (getattr(kind, member).__doc__ or "").strip().splitlines()[:1]
        if callable(getattr(kind, member, None)) else "property"
        for member in dir(kind)
        if member == "__init__" or not member.startswith("_")
    }
found["Logger.Severity"] = {member: "value" for member in trt.ILogger.Severity.__members__}
print(json.dumps(found))
"""


def surface(wheel: Path) -> dict[str, object]:
    """What the bindings in ``wheel`` offer, by class; for each name its signature or its kind."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        stubs = _stubs(Path(folder))
        environment = {**os.environ, "PYTHONPATH": folder, "LD_LIBRARY_PATH": str(stubs)}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", INSPECT, json.dumps(CLASSES)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(done.stdout)
    return {name: _plain(members) for name, members in found.items()}


def _plain(members: object) -> object:
    if not isinstance(members, dict):
        return members
    return {name: _signature(what) for name, what in sorted(members.items())}


def _signature(what: object) -> object:
    """Names of the parameters, without their types, which differ in wording between versions."""
    if not isinstance(what, list):
        return what
    match = re.match(r"\w+\((.*)\)( ->.*)?$", what[0] if what else "")
    if match is None or "*args" in match[1]:  # several signatures, or none that is written down
        return "method"
    names = re.findall(r"(?:^|, )(\w+)(?=:|,|$)", match[1])
    return [name for name in names if name not in ("self", "args", "kwargs")]


def _stubs(folder: Path) -> Path:
    """Empty libraries by the names that the bindings in ``folder`` ask for."""
    (bindings,) = (folder / "tensorrt_bindings").glob("tensorrt*.so")
    wanted = set(re.findall(rb"lib(\w+)\.so\.(\d+)", bindings.read_bytes()))
    places = folder / "stubs"
    places.mkdir()
    source = places / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for name, major in wanted:
        library = f"lib{name.decode()}.so.{major.decode()}"
        if name.decode() in LIBRARIES:
            command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", str(source), "-o"]
            subprocess.run([*command, str(places / library)], check=True)
    return places


def path_of(version: str) -> Path:
    """Where the surface of a version is kept, to its second number: patches change nothing."""
    return HERE / f"tensorrt-{'.'.join(version.split('.')[:2])}.json"


def main() -> None:
    for wheel in map(Path, sys.argv[1:]):
        found = surface(wheel)
        path = path_of(str(found["__version__"]))
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(path.name)


if __name__ == "__main__":
    main()
