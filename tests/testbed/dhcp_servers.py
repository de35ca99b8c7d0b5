"""The DHCP servers that the test bed's LAN can have: their configurations, files and commands."""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from tests.testbed.vsphere import TestbedError

FIRST, LAST = "10.77.1.0", "10.77.16.255"
LEASE_S = 7200
INTERFACE = "server0"


class DhcpServer(ABC):
    """One kind of server, with its files in `directory`; `disk` is the directory of its lease file."""

    leases: str
    """The name of its lease file."""
    conf: str
    programs: tuple[str, ...]
    """What it consists of, the server itself first."""
    ready: str
    """The line it prints when it serves, a regular expression."""

    def __init__(self, directory: Path, disk: Path | None = None) -> None:
        self.directory = directory
        self.disk = disk or directory

    @abstractmethod
    def configuration(self, extra: str) -> str:
        """The text of `conf`; `extra` are more lines for it."""

    @abstractmethod
    def arguments(self) -> list[str]:
        """What follows the program in its command."""

    def environment(self) -> Mapping[str, str]:
        """What it needs beside ours."""
        return {}

    def prepare(self, extra: str) -> None:
        """Write its configuration and copy its programs into the directory.

        Debian's AppArmor profiles are for the programs in /usr/sbin, and let those write to the system's files only.
        """
        (self.directory / self.conf).write_text(self.configuration(extra))
        for program in self.programs:
            found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
            if found is None:
                raise TestbedError(f"There is no {program} on this machine, run scripts/bootstrap.")
            shutil.copy(found, self.directory / program)

    def command(self) -> list[str]:
        """What starts it."""
        return [str(self.directory / self.programs[0]), *self.arguments()]

    @property
    def lease_file(self) -> Path:
        return self.disk / self.leases

    def path(self, name: str) -> str:
        return str(self.directory / name)


class Dhcpd(DhcpServer):
    """ISC dhcpd."""

    leases, conf, programs, ready = "dhcpd.leases", "dhcpd.conf", ("dhcpd",), "Server starting service"

    def configuration(self, extra: str) -> str:
        # One range of 4096: dhcpd searches its free leases one by one. A threshold of 0: every lease is written, also
        # one that is asked for again early.
        return f"""\
authoritative;
ddns-update-style none;
default-lease-time {LEASE_S};
max-lease-time {LEASE_S};
ping-check false;
dhcp-cache-threshold 0;
{extra}
subnet 10.77.0.0 netmask 255.255.0.0 {{
  range {FIRST} {LAST};
}}
"""

    def arguments(self) -> list[str]:
        files = ["-cf", self.path(self.conf), "-lf", str(self.lease_file), "-pf", self.path("dhcpd.pid")]
        return ["-4", "-f", "-d", *files, INTERFACE]


class Kea(DhcpServer):
    """Kea, which cleans its lease file up once a second."""

    leases, conf, programs = "kea-leases4.csv", "kea-dhcp4.conf", ("kea-dhcp4", "kea-lfc")
    ready = "DHCP4_STARTED"

    def configuration(self, extra: str) -> str:
        settings = {
            "interfaces-config": {"interfaces": [INTERFACE]},
            "lease-database": {"type": "memfile", "name": str(self.lease_file), "lfc-interval": 1},
            "valid-lifetime": LEASE_S,
            "subnet4": [{"id": 1, "subnet": "10.77.0.0/16", "pools": [{"pool": f"{FIRST}-{LAST}"}]}],
            "loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout"}]}],
        }
        return json.dumps({"Dhcp4": {**settings, **json.loads(extra or "{}")}})

    def arguments(self) -> list[str]:
        return ["-c", self.path(self.conf)]

    def environment(self) -> Mapping[str, str]:
        return {
            "KEA_PIDFILE_DIR": str(self.directory),
            "KEA_LOCKFILE_DIR": "none",
            "KEA_LFC_EXECUTABLE": self.path("kea-lfc"),
        }


class Dnsmasq(DhcpServer):
    """dnsmasq without its DNS."""

    leases, conf, programs, ready = "dnsmasq.leases", "dnsmasq.conf", ("dnsmasq",), "DHCP, IP range"

    def configuration(self, extra: str) -> str:
        return f"""\
port=0
interface={INTERFACE}
dhcp-authoritative
dhcp-leasefile={self.lease_file}
dhcp-range={FIRST},{LAST},255.255.0.0,{LEASE_S}
no-ping
{extra}
"""

    def arguments(self) -> list[str]:
        return ["--no-daemon", "--log-facility=-", "--pid-file=", f"--conf-file={self.path(self.conf)}"]


SERVERS: Mapping[str, type[DhcpServer]] = {"dhcpd": Dhcpd, "kea": Kea, "dnsmasq": Dnsmasq}
