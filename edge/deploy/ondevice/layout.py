"""Where things lie on a device."""

from __future__ import annotations

import os

SERVICE = "edge.service"
HEAL = "edge-heal.service"
FIRST_BOOT = "edge-first-boot.service"
USER = "edge"


class Layout:
    """Paths on the device; ``root`` is a folder that holds a device's file system, as an image's.

    What is in ``base`` belongs to root and is written by deployments alone::

        files/<sha256>            what was sent: wheels, bundles; <sha256>.partial while on its way
        runtimes/<digest>/        a virtual environment; whole if there is runtime.json in it
        releases/<digest>/        release.json, edge.toml, models/NAME/VERSION.edge; links: runtime,
                                  and updates, where the service puts what a command brings
        current, previous         links to releases
        pending                   JSON, there while the release in ``current`` is not confirmed
        enrolling                 JSON, there while a certificate is not confirmed: what was before
        first-boot.json           the release to install at the first boot; gone once it is
        lock                      held by whoever deploys, and names them
        edge-device.pyz           this program

    The service writes below ``state`` and ``cache`` only; ``state/updates/<digest>`` belongs to one
    release. ``etc`` is the device's own and no
    deployment touches it: ``environment`` (EDGE_* variables, which win over a release's edge.toml),
    ``device.key``, ``device.crt`` and ``broker-ca.pem`` (who it is to its broker, by ``enrolment``)
    and ``first-boot.d`` (programs that run once, in order, before the service starts).
    """

    def __init__(self, root: str = "/", base: str = "/opt/edge") -> None:
        self.root = root
        self.base = self._at(base)
        self.etc = self._at("/etc/edge")
        self.state = self._at("/var/lib/edge")
        self.cache = self._at("/var/cache/edge")
        self.units = self._at("/etc/systemd/system")

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    def in_base(self, *names: str) -> str:
        return os.path.join(self.base, *names)

    @property
    def files(self) -> str:
        return self.in_base("files")

    @property
    def runtimes(self) -> str:
        return self.in_base("runtimes")

    @property
    def releases(self) -> str:
        return self.in_base("releases")

    @property
    def updates(self) -> str:
        return os.path.join(self.state, "updates")

    @property
    def current(self) -> str:
        return self.in_base("current")

    @property
    def previous(self) -> str:
        return self.in_base("previous")

    @property
    def pending(self) -> str:
        return self.in_base("pending")

    @property
    def first_boot(self) -> str:
        return self.in_base("first-boot.json")

    @property
    def lock(self) -> str:
        return self.in_base("lock")

    @property
    def program(self) -> str:
        return self.in_base("edge-device.pyz")

    @property
    def environment(self) -> str:
        return os.path.join(self.etc, "environment")

    @property
    def first_boot_programs(self) -> str:
        return os.path.join(self.etc, "first-boot.d")

    def release(self, digest: str) -> str:
        return self.in_base("releases", digest)

    def runtime(self, digest: str) -> str:
        return self.in_base("runtimes", digest)

    def file(self, sha256: str) -> str:
        return self.in_base("files", sha256)
