"""Faults, sessions and orders from outside the API."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from typing import Any

import pytest

from esxprov.vsphere.api import vim, vmodl
from tests.integration.vsim.rig import Bed, Client, until, wait
from tests.testbed.vsphere import TestbedError, VSphere


def test_control_wants_the_token(esx: Client) -> None:
    connection = http.client.HTTPSConnection(esx.server.host, esx.server.port, context=esx.tls, timeout=5)
    connection.request("GET", "/ctl/calls", headers={"X-Vsim-Control": "guess"})
    assert connection.getresponse().status == 403
    connection.close()


def test_injected_faults_come_in_every_kind_and_as_often_as_asked(client: Client, bed: Bed) -> None:
    server, vm = client.server, client.register(bed.author("vm1"))
    server.inject("PowerOnVM_Task", "task", fault="NoCompatibleHost", count=1)
    with pytest.raises(vim.fault.NoCompatibleHost):
        wait(vm.PowerOnVM_Task())
    server.inject("PowerOnVM_Task", "soap", fault="HostNotConnected", count=1)
    with pytest.raises(vmodl.fault.HostNotConnected):
        vm.PowerOnVM_Task()
    server.inject("PowerOnVM_Task", "http", status=503, count=1)
    with pytest.raises(http.client.HTTPException):
        vm.PowerOnVM_Task()
    server.inject("PowerOnVM_Task", "drop", count=1)
    with pytest.raises((http.client.HTTPException, OSError)):
        vm.PowerOnVM_Task()
    assert vm.runtime.powerState == "poweredOff"
    server.inject("PowerOnVM_Task", "dropafter", match=vm._moId, count=1)
    with pytest.raises((http.client.HTTPException, OSError)):
        vm.PowerOnVM_Task()
    until(lambda: vm.runtime.powerState == "poweredOn")
    server.inject("PowerOffVM_Task", "delay", ms=200, count=1)
    began = time.monotonic()
    wait(vm.PowerOffVM_Task())
    assert time.monotonic() - began > 0.2
    wait(vm.PowerOnVM_Task())


def test_rules_meet_only_what_they_name_until_they_are_cleared(esx: Client) -> None:
    server = esx.server
    server.inject("CopyVirtualDisk_Task", "task", fault="FileLocked", match="golden/win")
    server.inject("PUT /folder", "http", status=500)
    for _ in range(2):
        with pytest.raises(vim.fault.FileLocked):
            wait(esx.copy("[nfs1] golden/win/win.vmdk", "[nfs1] new.vmdk"))
    assert esx.folder("PUT", "a", b"")[0] == 500
    with pytest.raises(vim.fault.FileNotFound):
        wait(esx.copy("[nfs1] other.vmdk", "[nfs1] new.vmdk"))
    server.clear_faults()
    wait(esx.copy("[nfs1] golden/win/win.vmdk", "[nfs1] new.vmdk"))
    assert server.calls()["CopyVirtualDisk_Task"] == 4
    with pytest.raises(TestbedError, match="NoSuchFault"):
        server.inject("*", "soap", fault="NoSuchFault")


def test_the_file_side_fails_in_every_kind_too(client: Client, bed: Bed) -> None:
    server = client.server
    server.inject("PUT /folder", "drop", match="a.txt", count=1)
    with pytest.raises((http.client.HTTPException, OSError)):
        client.folder("PUT", "inuse/a.txt", b"one")
    assert not (bed.path / "inuse/a.txt").exists()
    server.inject("PUT /folder", "dropafter", match="a.txt", count=1)
    with pytest.raises((http.client.HTTPException, OSError)):
        client.folder("PUT", "inuse/a.txt", b"one")
    assert (bed.path / "inuse/a.txt").read_bytes() == b"one"
    server.inject("GET /folder", "http", status=503, count=1)
    assert client.folder("GET", "inuse/a.txt")[0] == 503
    server.inject("GET /folder", "delay", ms=200, count=1)
    began = time.monotonic()
    assert client.folder("GET", "inuse/a.txt") == (200, b"one")
    assert time.monotonic() - began > 0.2


@pytest.mark.parametrize(
    ("method", "kind", "more", "problem"),
    [
        ("PowerOnVM", "drop", {}, "no method is called"),
        ("VirtualMachine", "drop", {}, "no method is called"),
        ("PATCH /folder", "drop", {}, "no method is called"),
        ("PUT /folder", "task", {"fault": "NoDiskSpace"}, "no SOAP call"),
        ("PowerOnVM_Task", "http", {}, "no HTTP status"),
        ("PowerOnVM_Task", "delay", {}, "no time"),
        ("PowerOnVM_Task", "explode", {}, "no rule is of kind"),
        ("PowerOnVM_Task", "task", {"fault": "NoSuchFault"}, "no fault is called"),
        ("*", "soap", {"fault": "VirtualMachine"}, "no fault is called"),
    ],
)
def test_a_rule_that_could_never_work_is_refused(
    esx: Client, method: str, kind: str, more: dict[str, Any], problem: str
) -> None:
    with pytest.raises(TestbedError, match=problem):
        esx.server.inject(method, kind, **more)


def test_a_rule_for_everything_meets_every_call(esx: Client) -> None:
    esx.server.inject("*", "http", status=503)
    with pytest.raises(http.client.HTTPException):
        esx.content.sessionManager.Logout()
    esx.server.clear_faults()
    esx.server.inject("*", "soap", fault="HostCommunication")
    with pytest.raises(vmodl.fault.HostCommunication):
        esx.content.sessionManager.Logout()


def test_a_host_that_is_not_there_or_a_state_that_is_none_is_refused(esx: Client) -> None:
    with pytest.raises(TestbedError, match="no host esx9"):
        esx.server.set_host("esx9", maintenance=True)
    with pytest.raises(TestbedError, match="cannot be asleep"):
        esx.server.set_host("esx1", state="asleep")


def test_expired_sessions_are_told_so_and_can_log_in_again(client: Client) -> None:
    assert client.server.sessions() == 1
    client.server.expire_sessions()
    with pytest.raises(vim.fault.NotAuthenticated):
        client.content.fileManager.MakeDirectory("[nfs1] x", client.content.rootFolder.childEntity[0], False)
    client.content.sessionManager.Login(client.server.user, client.server.password)
    client.content.fileManager.MakeDirectory("[nfs1] x", client.datacenter, False)


def test_an_idle_session_ends_but_own_methods_keep_it_alive(start: Callable[..., VSphere]) -> None:
    server = start("esx1", idle_s=0.5)
    busy, idle = Client(server), Client(server)
    root, datacenter = idle.content.rootFolder, busy.datacenter
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        with pytest.raises(vim.fault.FileAlreadyExists):
            busy.content.fileManager.MakeDirectory("[nfs1] golden", datacenter, False)
        time.sleep(0.05)
    assert server.sessions() == 1
    with pytest.raises(vim.fault.NotAuthenticated):
        idle.content.viewManager.CreateContainerView(root, [vim.VirtualMachine], True)


def test_the_inventory_is_told_without_a_session(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    wait(vm.PowerOnVM_Task())
    report = client.server.inventory()
    machine = report["vms"][0]
    assert (machine["name"], machine["power"], machine["host"]) == ("vm1", "poweredOn", vm.runtime.host.name)
    assert (machine["path"], machine["memory_mb"]) == ("[nfs1] inuse/vm1/vm1.vmx", 512)
    assert machine["macs"][0] == "00:50:56:00:00:01"
    assert machine["disks"] == ["[nfs1] inuse/vm1/disk.vmdk"]
    host = next(host for host in report["hosts"] if host["name"] == machine["host"])
    assert host["used_mb"] == 1024 + 512
