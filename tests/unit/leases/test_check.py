"""Whether leases will be seen on this machine."""

from __future__ import annotations

from pathlib import Path

from esxprov.leases import check


def serious(findings: object) -> list[str]:
    return [one.result for one in findings if one.is_serious]  # type: ignore[attr-defined]


def test_a_file_that_is_there_can_be_read_and_its_events_arrive(tmp_path: Path) -> None:
    path = tmp_path / "dhcpd.leases"
    path.touch()
    found = list(check.of_file(path))
    assert [one.result for one in found] == ["it can be read", "events arrive"]


def test_a_missing_file_is_serious(tmp_path: Path) -> None:
    assert serious(check.of_file(tmp_path / "dhcpd.leases")) == ["there is no such file"]


def test_a_configuration_is_checked_with_what_it_includes(tmp_path: Path) -> None:
    conf = tmp_path / "dhcpd.conf"
    conf.write_text('include "vms.conf"; include "dhcpd.conf"; dhcp-cache-threshold 0;')
    (tmp_path / "vms.conf").write_text("subnet 10.77.0.0 netmask 255.255.0.0 { }")
    assert serious(check.of_conf(conf, ends_old=False)) == ["none has a range: VMs get no address"]


def test_a_configuration_that_cannot_be_read_is_serious(tmp_path: Path) -> None:
    assert "cannot be read" in serious(check.of_conf(tmp_path / "dhcpd.conf", ends_old=False))[0]


def test_the_file_system_is_that_of_the_innermost_mount() -> None:
    mounts = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "40 22 0:50 / /var/lib rw shared:1 - xfs /dev/sdb rw\n"
        "41 40 0:51 / /var/lib/dhcp\\040x rw - nfs4 server:/dhcp rw\n"
        "broken\n"
    )
    assert check.file_system(Path("/var/lib/dhcp x/dhcpd.leases"), mounts) == "nfs4"
    assert check.file_system(Path("/var/lib/dhcp/dhcpd.leases"), mounts) == "xfs"
    assert check.file_system(Path("/etc/dhcpd.leases"), mounts) == "ext4"
    assert check.file_system(Path("/etc"), "") == ""
