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
MCLT_S = 60
"""How long the first lease of a guest lasts that one of a pair gives alone."""

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
    partner: type[DhcpServer] | None = None
    """Who serves beside it, if it does not serve alone."""

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
        pid = self.path(f"{Path(self.conf).stem}.pid")
        files = ["-cf", self.path(self.conf), "-lf", str(self.lease_file), "-pf", pid]
        return ["-4", "-f", "-d", *files, INTERFACE]


class FailoverPeer(Dhcpd):
    """One of two dhcpds that share a range of 64, each with an OMAPI port that needs no key.

    Both hear all guests. Which of them answers a guest is a matter of its MAC. They begin as if they had known each
    other for long, which saves them a minute.
    """

    ready = "Both servers normal"
    role: str
    own_ip: str
    peer_ip: str
    omapi_port: int
    own_terms = ""

    def configuration(self, extra: str) -> str:
        return f"""\
authoritative;
ddns-update-style none;
default-lease-time {LEASE_S};
max-lease-time {LEASE_S};
ping-check false;
server-identifier {self.own_ip};
omapi-port {self.omapi_port};
{extra}
failover peer "pair" {{
  {self.role};
  address {self.own_ip};
  port 647;
  peer address {self.peer_ip};
  peer port 647;
  max-response-delay 5;
  max-unacked-updates 10;
  load balance max seconds 3;
  {self.own_terms}
}}
subnet 10.77.0.0 netmask 255.255.0.0 {{
  pool {{
    failover peer "pair";
    range {FIRST} 10.77.1.63;
  }}
}}
"""

    def prepare(self, extra: str) -> None:
        super().prepare(extra)
        since = "4 2026/01/01 00:00:00"
        state = f"  my state normal at {since};\n  partner state normal at {since};\n"
        self.lease_file.write_text(f'failover peer "pair" state {{\n{state}  mclt {MCLT_S};\n}}\n')


class Secondary(FailoverPeer):
    leases, conf = "secondary.leases", "secondary.conf"
    role, own_ip, peer_ip, omapi_port = "secondary", "10.77.0.2", "10.77.0.1", 7912


class Primary(FailoverPeer):
    role, own_ip, peer_ip, omapi_port = "primary", "10.77.0.1", "10.77.0.2", 7911
    own_terms = f"mclt {MCLT_S};\n  split 128;"
    partner = Secondary


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


SERVERS: Mapping[str, type[DhcpServer]] = {
    "dhcpd": Dhcpd,
    "failover": Primary,
    "kea": Kea,
    "dnsmasq": Dnsmasq,
}
