"""All servers of the test bed together, the site in VCL's database, and an esxprov.conf that fits them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.testbed import vsphere
from tests.testbed.certificates import Certificates
from tests.testbed.lan import LAN
from tests.testbed.mariadb import PASSWORD, MariaDb
from tests.testbed.processes import Child
from tests.testbed.rabbitmq import RabbitMq
from tests.testbed.vcl_rows import ImageRows, VclRows
from tests.testbed.vsphere import HostSpec, VSphere

NODE = "mn1"
PROFILE = "testbed"
DATASTORE = "nfs1"
REPOSITORY = "repo"
REPOSITORY_PATH = f"[{REPOSITORY}] images"
HOSTS = (HostSpec("esx1", 8192, 4), HostSpec("esx2", 16384, 8), HostSpec("esx3", 32768, 16))
_SERVICE_START_S = 30.0
_COMMAND_S = 60.0
_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class GoldenImage:
    """An image in the library and in VCL's database."""

    name: str
    disk_mb: int
    ram_mb: int
    cpus: int
    os: str
    adapter: str = "lsilogic"


IMAGES = (
    GoldenImage("vmwarelinux-base9-v3", 64, 1024, 1, "vmwarelinux"),
    GoldenImage("vmwarewin10-office5-v0", 128, 4096, 2, "vmwarewin10", "lsisas1068"),
)


@dataclass(frozen=True, slots=True)
class Site:
    """What an admin has entered into VCL: ids of the rows. `vmhosts` is vmhost.id by host name."""

    node_id: int
    provisioning_id: int
    profile_id: int
    vmhosts: dict[str, int]
    images: dict[str, ImageRows]
    computers: dict[str, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a bed is made of.

    `vcenter` puts the hosts into one vCenter, in the cluster `lab`, instead of giving each an endpoint of its own.
    `task_ms` is what every vSphere task takes, `copy_mb_s` how fast each disk is copied (0: at once), `boot_ms` a
    guest from power-on to its first packet, `strict` MariaDB's SQL mode, `capacity_mb` the size of the datastore,
    `computers` how many slots VCL has, `disk` how VMs get theirs. `repository` adds a second datastore and names it in
    VCL's profile as the one where images are kept; `nested` lets all hosts lend their hardware virtualisation,
    `multiextent` lets them read disks in the format of VMware Workstation.
    """

    hosts: tuple[HostSpec, ...] = HOSTS
    vcenter: bool = False
    task_ms: int = 0
    copy_mb_s: float = 0
    boot_ms: int = 0
    strict: bool = True
    capacity_mb: int | None = None
    computers: int = 6
    disk: str = "copy"
    repository: bool = False
    nested: bool = False
    multiextent: bool = False


class Bed:
    """A private copy of everything esxprov talks to, in `directory`. As a context manager it is gone in the end.

    `endpoints` are the vSphere servers by name, `store` is the directory behind the datastore, `repository` that of the
    images in the repository.
    """

    def __init__(self, directory: Path, plan: Plan | None = None) -> None:
        self.directory = directory.resolve()
        self.plan = plan or Plan()
        self.conf = self.directory / "esxprov.conf"
        self.spool = self.directory / "spool"
        self.guests = self.directory / "guests"
        self.store = self.directory / DATASTORE
        self.repository = self.directory / REPOSITORY / "images"
        self.endpoints: dict[str, VSphere] = {}
        self._site: Site | None = None
        self._ends = ExitStack()
        self.guests.mkdir(parents=True, exist_ok=True)
        self.certificates = Certificates(self.directory / "certificates")
        self._served = self.certificates.server("testbed")
        self.mariadb = MariaDb(self.directory / "mariadb", strict=self.plan.strict)
        self.rabbitmq = RabbitMq(self.directory / "rabbitmq", tls=(self.certificates.ca, *self._served), node=NODE)
        self.lan = LAN(self.directory / "lan", boot_ms=self.plan.boot_ms)

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything, side by side, and write the configuration. TestbedError, and nothing left, if it fails."""
        servers = (self.rabbitmq, self.mariadb, self.lan)
        try:
            vsphere.build()
            for server in servers:
                self._ends.callback(server.remove)
            with ThreadPoolExecutor(len(servers)) as starting:
                for begun in [starting.submit(server.begin) for server in servers]:
                    begun.result()
                finishing = [starting.submit(server.finish) for server in servers]
                self._start_vsphere()
                for finished in finishing:
                    finished.result()
            self._write_configuration()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything, with all data but the logs. A second time does nothing."""
        self._ends.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_vsphere(self) -> None:
        if self.plan.repository:
            self.repository.mkdir(parents=True, exist_ok=True)
        for image in IMAGES:
            vsphere.golden_disk(self.store / "golden", image.name, image.disk_mb, image.adapter, b"boot sector")
        if self.plan.vcenter:
            self.endpoints["vc1"] = self._endpoint(
                lambda **options: VSphere.start_vcenter(self.directory / "vc1", self._hosts(), "lab", **options)
            )
        else:
            for host in self._hosts():
                self.start_host(host)

    def _hosts(self) -> list[HostSpec]:
        return [replace(host, nested=True) if self.plan.nested else host for host in self.plan.hosts]

    def start_host(self, host: HostSpec, port: int = 0, *, stateless: bool = False) -> None:
        """Start a standalone host; `port` starts it again where it was before a crash, with its VMs, powered off, or
        `stateless`, with none.
        """
        home = self.directory / host.name
        size: Any = {"memory_mb": host.memory_mb, "cores": host.cores, "nested": host.nested, "stateless": stateless}
        self.endpoints[host.name] = self._endpoint(
            lambda **options: VSphere.start_esxi(home, host.name, **size, **options), port
        )

    def restart_host(self, name: str, *, stateless: bool = False) -> None:
        """Cut a host's power and give it back. Its VMs are off; a `stateless` one has none registered any more."""
        if self.plan.vcenter:
            self.endpoints["vc1"].reboot_host(name, stateless=stateless)
            return
        crashed = self.endpoints[name]
        crashed.kill()
        host = next(host for host in self._hosts() if host.name == name)
        self.start_host(host, crashed.port, stateless=stateless)

    def _endpoint(self, start: Any, port: int = 0) -> VSphere:
        stores = {DATASTORE: self.store} | ({REPOSITORY: self.repository.parent} if self.plan.repository else {})
        server: VSphere = start(
            datastores=stores,
            networks=("Private", "Public"),
            certificate=self._served.certificate,
            key=self._served.key,
            ca=self.certificates.ca,
            power_socket=self.lan.power_socket,
            task_ms=self.plan.task_ms,
            copy_mb_s=self.plan.copy_mb_s,
            capacity_mb=self.plan.capacity_mb,
            multiextent=self.plan.multiextent,
            port=port,
        )
        self._ends.callback(server.stop)
        return server

    # --- what esxprov needs -----------------------------------------------------------------------------------------

    def _write_configuration(self) -> None:
        sections = {
            "service": {"management_node": NODE, "workers_slow": 8, "workers_fast": 4},
            "broker": self._broker("esxprov"),
            "vcld": self._broker("vcld") | {"spool": self.spool},
            "cli": self._broker("esxprov-cli"),
            "publisher": self._broker("esxprov-leases"),
            "database": {
                "unix_socket": self.mariadb.socket,
                "user": "esxprov",
                "password_file": self._secret("database", PASSWORD),
                "name": "vcl",
            },
            "leases": {"source": f"dhcpd:{self.lan.leases}", "conf": self.lan.conf},
        }
        for name, endpoint in self.endpoints.items():
            secret = self._secret(f"endpoint-{name}", endpoint.password)
            ca = self.certificates.ca
            sections[f"endpoint {name}"] = {
                "url": endpoint.url, "user": endpoint.user, "password_file": secret, "ca_file": ca
            }  # fmt: skip
        pool = {"endpoints": ", ".join(self.endpoints), "profile": PROFILE, "disk": self.plan.disk}
        if self.plan.vcenter:
            pool |= {"datacenter": "DC0", "cluster": "lab"}
        sections["pool main"] = pool | {"cpu_ratio": 4.0, "ram_ratio": 1.0, "reserved_ram_mb": 1024}
        text = "\n".join(
            f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
            for section, keys in sections.items()
        )
        self.conf.write_text(text)

    def _broker(self, user: str) -> dict[str, Any]:
        return {
            "url": self.rabbitmq.url(user),
            "password_file": self._secret(f"broker-{user}", self.rabbitmq.password(user)),
        }

    def _secret(self, name: str, content: str) -> Path:
        path = self.directory / "secrets" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content + "\n")
        path.chmod(0o600)
        return path

    # --- a site -----------------------------------------------------------------------------------------------------

    def rows(self) -> VclRows:
        """A way to write VCL's tables."""
        return VclRows(self.mariadb.connect())

    @property
    def site(self) -> Site:
        """What `make_site` made."""
        assert self._site is not None, "make_site() was not called"
        return self._site

    def make_site(self) -> Site:
        """Enter into VCL's database what an admin would: node, profile, hypervisors, images, slots."""
        rows = self.rows()
        provisioning = rows.esxprov_module()
        node = rows.management_node(f"{NODE}.vcl.test")
        profile = rows.profile(PROFILE, DATASTORE, repository=REPOSITORY_PATH if self.plan.repository else "")
        vmhosts = {
            host.name: rows.hypervisor(f"{host.name}.vcl.test", host.memory_mb, host.cores, profile)
            for host in self.plan.hosts
        }
        images = {image.name: self._image(rows, image) for image in IMAGES}
        first = next(iter(vmhosts.values()))
        computers = {}
        for number in range(1, self.plan.computers + 1):
            mac = f"00:50:56:{{}}:{number >> 8:02x}:{number & 255:02x}"
            name = f"slot{number}"
            computers[name] = rows.computer(f"{name}.vcl.test", first, provisioning, mac.format("01"), mac.format("02"))
        self._site = Site(node, provisioning, profile, vmhosts, images, computers)
        return self._site

    @staticmethod
    def _image(rows: VclRows, image: GoldenImage) -> ImageRows:
        return rows.image(image.name, os=image.os, ram_mb=image.ram_mb, cpus=image.cpus, size_mb=image.disk_mb)

    # --- programs ---------------------------------------------------------------------------------------------------

    def service(self, log: Path | None = None, **environment: str) -> Child:
        """`esxprov serve` in a process of its own; returns when it serves. TestbedError if it does not."""
        log = log or self.directory / "service.log"
        return self._run("serve", log=log, ready="serves node", environment=environment)

    def publisher(self, **environment: str) -> Child:
        """`esxprov leases publish` in a process of its own; returns when it answers."""
        log = self.directory / "publisher.log"
        return self._run("leases", "publish", log=log, ready="are told to", environment=environment)

    def _run(self, *arguments: str, log: Path, ready: str, environment: Mapping[str, str]) -> Child:
        command = [sys.executable, "-m", "esxprov.cli", *arguments]
        child = Child(command, log, ready=ready, environment=self.environment(**environment))
        self._ends.callback(child.kill)
        child.wait_until_ready(_SERVICE_START_S)
        return child

    def esxprov(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """The `esxprov` command with this bed's configuration, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "esxprov.cli", *arguments],
            env=self.environment(),
            input=text,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )

    def environment(self, **more: str) -> dict[str, str]:
        """The variables by which our programs, also those in Perl, find this bed."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ESXPROV_")}
        own = {
            "ESXPROV_CONF": str(self.conf),
            "PYTHONPATH": str(_REPOSITORY),
            "VCL_DB_SOCKET": str(self.mariadb.socket),
            "VCL_DB_PASSWORD": PASSWORD,
            "VCL_GUESTS": str(self.guests),
        }
        return clean | own | more

    def complaints(self) -> list[str]:
        """The warnings that vcld would have in its log, and mail to its admins."""
        log = self.directory / "vcld.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.startswith(("WARNING", "CRITICAL"))]

    def vcld_child(
        self, reservation_id: int, *calls: str, state: str | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """A process that has the shim and does what vcld's child does: the calls of one reservation, in order.

        It prints one JSON line a call; see tests/perl/vcld-child. What vcld would log is in `vcld.log`.
        """
        command = ["perl", str(_REPOSITORY / "tests/perl/vcld-child"), "--reservation", str(reservation_id)]
        command += ["--log", str(self.directory / "vcld.log"), *(["--state", state] if state else []), *calls]
        return subprocess.Popen(
            command,
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def processes(self) -> dict[str, int]:
        """Name -> process id of every server."""
        found = {**self.rabbitmq.processes, **self.mariadb.processes, **self.lan.processes}
        return found | {name: endpoint.pid for name, endpoint in self.endpoints.items()}
