"""The container file, built without a daemon and asked a question: minutes, and the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from free_ports import free_port

from edge.cli import _main

ROOT = Path(__file__).parents[2]
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"

_TOOLS = ("buildah", "debootstrap")
_PATH = f"{os.environ['PATH']}:/usr/sbin"
_missing = [tool for tool in _TOOLS if shutil.which(tool, path=_PATH) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_missing), reason=f"not installed: {', '.join(_missing)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root builds images without a daemon"),
]

# In the container: what is answered goes to stdout, and a SIGTERM ends it as it should.
LIFE = """
EDGE_SERVE_HTTP=127.0.0.1:PORT edge serve /models >&2 &
python3 - <<END
import json, time, urllib.error, urllib.request as requests
url = "http://127.0.0.1:PORT/v2"
values = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}
question = json.dumps({"inputs": [values]}).encode()
for attempt in range(600):
    try:
        requests.urlopen(f"{url}/health/ready", timeout=60)
        break
    except OSError:
        time.sleep(0.2)
with requests.urlopen(f"{url}/models/digits/infer", question, timeout=60) as stream:
    print(json.load(stream)["outputs"][0]["shape"])
END
kill -TERM $!
wait $! && echo ended with 0
id -un
"""

Buildah = Callable[..., str]


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    """The program, with storage of its own that is gone in the end."""
    with tempfile.TemporaryDirectory(prefix="edge-container-", dir="/var/tmp") as folder:
        places = (
            "--storage-driver",
            "vfs",
            "--root",
            f"{folder}/root",
            "--runroot",
            f"{folder}/run",
        )

        def run(*words: str) -> str:
            done = subprocess.run(
                ["buildah", *places, *words],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": folder},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        _import_base(run, Path(folder) / "base")
        yield run


def _import_base(run: Buildah, folder: Path) -> None:
    """Debian with Python in place of the image that the file names: a registry is not asked."""
    packages = "--include=python3,python3-venv,ca-certificates"
    command = ["debootstrap", "--variant=minbase", packages, SUITE, str(folder), MIRROR]
    done = subprocess.run(
        command, env={**os.environ, "PATH": _PATH}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    container = run("from", "scratch")
    run("add", "--quiet", container, str(folder), "/")
    run("commit", "--quiet", "--rm", container, "localhost/base")
    shutil.rmtree(folder)


def test_container_serves_and_ends(buildah: Buildah, digits: Path, tmp_path: Path) -> None:
    source = [str(digits / "digits.onnx"), "--spec", str(digits / "model.toml")]
    words = ["convert", *source, "--profile", "host", "-o", str(tmp_path / "digits.edge")]
    assert _main.main(words) in (_main.EXIT_DONE, _main.EXIT_GATE)
    tmp_path.chmod(0o755)
    (tmp_path / "digits.edge").chmod(0o644)
    isolated = ("--isolation", "chroot", "--network", "host")
    authorities = ("-v", "/etc/ssl/certs:/etc/ssl/certs:ro")  # this machine's own, as of a proxy
    buildah(
        *("build", "--quiet", *isolated, *authorities, "--build-arg", "BASE=localhost/base"),
        *("--format", "docker", "-t", "localhost/edge", "-f", "packaging/Containerfile", "."),
    )
    container = buildah("from", "localhost/edge")
    life = LIFE.replace("PORT", str(free_port()))  # of this machine, whose network it has
    told = buildah(
        *("run", *isolated, "-v", f"{tmp_path}:/models:ro", container, "--", "sh", "-c", life),
    )
    assert told.splitlines() == ["[1, 10]", "ended with 0", "edge"]
