"""The server as a process: paused, stopped, killed, started again."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from esxprov.vsphere.api import vim
from tests.integration.vsim.rig import Bed, Client, used_mb, wait
from tests.testbed.vsphere import TestbedError, VSphere


def test_a_paused_server_answers_again_when_it_is_resumed(esx: Client) -> None:
    esx.server.pause()
    connection = http.client.HTTPSConnection(esx.server.host, esx.server.port, context=esx.tls, timeout=0.2)
    with pytest.raises(TimeoutError):
        connection.request("GET", "/sdk/vimServiceVersions.xml")
    esx.server.resume()
    assert esx.all(vim.HostSystem)


def test_a_stopped_server_leaves_only_its_log(start: Callable[..., VSphere], bed: Bed, tmp_path: Path) -> None:
    server = start("esx1")
    Client(server).register(bed.author("vm1"))
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 1
    assert os.listdir(tmp_path / "server0") == ["vsim.log"]


def test_a_killed_host_frees_its_disks_and_can_come_back_on_its_port(start: Callable[..., VSphere], bed: Bed) -> None:
    server = start("esx1")
    path = bed.author("vm1")
    wait(Client(server).register(path).PowerOnVM_Task())
    server.kill()
    again = Client(start("esx1", port=server.port))
    wait(again.register(path).PowerOnVM_Task())


def test_a_host_that_comes_back_after_a_power_cut_has_its_vms_and_none_runs(
    start: Callable[..., VSphere], bed: Bed, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "power"))
        listener.settimeout(5)
        server = start("esx1", power_socket=tmp_path / "power")
        before = Client(server)
        wait(before.register(bed.author("on")).PowerOnVM_Task())
        before.register(bed.author("off"), name="renamed")
        before.register(bed.author("left")).UnregisterVM()
        assert json.loads(listener.recv(4096))["event"] == "on"
        server.kill()
        again = Client(start("esx1", home=server.log.parent, port=server.port, power_socket=tmp_path / "power"))
        told = json.loads(listener.recv(4096))
        assert (told["event"], told["vm"]) == ("off", "on")
    vms = again.all(vim.VirtualMachine)
    assert sorted((vm.name, vm.config.files.vmPathName, vm.runtime.powerState) for vm in vms) == [
        ("on", "[nfs1] inuse/on/on.vmx", "poweredOff"),
        ("renamed", "[nfs1] inuse/off/off.vmx", "poweredOff"),
    ]
    assert used_mb(again.all(vim.HostSystem)[0]) == 1024


def test_a_server_that_cannot_start_says_why(start: Callable[..., VSphere], tmp_path: Path) -> None:
    with pytest.raises(TestbedError, match="tlscert"):
        start("esx1", certificate=tmp_path / "none")
