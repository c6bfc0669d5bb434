"""Real brokers on the loopback interface: mosquitto where it is installed, and the embedded one."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from pathlib import Path

from free_ports import free_port, listens
from patience import LONG_S, wait_until

from edge.telemetry.address import parse_address
from edge.telemetry.broker import EmbeddedBroker
from edge.telemetry.link import Link

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class BrokerControl:
    """A broker that a test may stop and start again on the same port."""

    port: int

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def connect(self) -> Link:
        link = Link(parse_address(self.url), timeout_s=LONG_S)
        link.open()
        while link.state == "connecting":
            link.step(LONG_S)
        return link

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


class Embedded(BrokerControl):
    def __init__(self) -> None:
        self.port = free_port()
        self._broker: EmbeddedBroker | None = None

    def start(self) -> None:
        self._broker = EmbeddedBroker(self.port)

    def stop(self) -> None:
        if self._broker is not None:
            self._broker.close()


class Mosquitto(BrokerControl):
    """``options`` are further lines of its configuration, and win over ours."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._configuration = folder / f"mosquitto-{self.port}.conf"
        # As root it would become another user, who can not read what tests write.
        user = f"user {getpass.getuser()}"
        listener = f"listener {self.port} 127.0.0.1"
        ours = ("persistence false", user, listener, "allow_anonymous true")
        kept = [line for line in ours if line.split()[0] not in {o.split()[0] for o in options}]
        self._configuration.write_text("\n".join((*kept, *options)) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(MOSQUITTO), "-c", str(self._configuration)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._listens, "mosquitto to listen")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        assert self._process
        assert self._process.poll() is None, "mosquitto has ended"
        return listens(self.port)
