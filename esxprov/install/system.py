"""Where things are on a management node: Debian's family and Red Hat's differ in paths only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class System:
    """`dhcpd` is its systemd unit; `leases` is where it writes them."""

    name: str
    leases: Path
    dhcpd: str
    selinux: bool


DEBIAN = System("Debian", Path("/var/lib/dhcp/dhcpd.leases"), "isc-dhcp-server.service", selinux=False)
RED_HAT = System("Red Hat", Path("/var/lib/dhcpd/dhcpd.leases"), "dhcpd.service", selinux=True)


def system(root: Path) -> System:
    """By /etc/os-release. What is of neither family is taken for Debian: only paths that can be changed differ."""
    fields = {}
    for name in ("etc/os-release", "usr/lib/os-release"):
        file = root / name
        if file.is_file():
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                key, _, value = line.partition("=")
                fields[key] = value.strip().strip("\"'")
            break
    families = {fields.get("ID", ""), *fields.get("ID_LIKE", "").split()}
    return RED_HAT if families & {"rhel", "fedora", "centos"} else DEBIAN
