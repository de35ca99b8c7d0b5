"""A pyVmomi client of the test bed's vSphere server, and files to register."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esxprov.vsphere.api import SoapStubAdapter, vim, vmodl
from tests.testbed.vsphere import VSphere, golden_disk

Query = vmodl.query.PropertyCollector


MB = 1024 * 1024


VMX = """\
.encoding = "UTF-8"
# authored
displayName = "{name}"
annotation = "say |22hello|22|0Athere |7C"
guestOS = "windows9srv-64"
memSize = "{memory_mb}"
numvcpus = "2"
cpuid.coresPerSocket = "2"
uuid.bios = "56 4d 11 22 33 44 55 66-77 88 99 aa bb cc dd ee"
mem.hotadd = "TRUE"
vcpu.hotadd = "TRUE"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsisas1068"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "{disk}"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "e1000e"
ethernet0.networkName = "Private"
ethernet0.addressType = "static"
ethernet0.address = "{mac}"
ethernet1.present = "TRUE"
ethernet1.virtualDev = "vmxnet3"
ethernet1.networkName = "{network}"
ethernet1.addressType = "generated"
"""


class Client:
    """A pyVmomi session that verifies the server's certificate."""

    def __init__(self, server: VSphere, login: bool = True) -> None:
        self.server = server
        self.tls = ssl.create_default_context(cafile=str(server.ca))
        self.stub = SoapStubAdapter(
            host=server.host,
            port=server.port,
            version="vim.version.version10",
            sslContext=self.tls,
            httpConnectionTimeout=10,
        )
        self.content = vim.ServiceInstance("ServiceInstance", self.stub).RetrieveContent()
        if login:
            self.content.sessionManager.Login(server.user, server.password)

    def all(self, kind: type) -> list[Any]:
        view = self.content.viewManager.CreateContainerView(self.content.rootFolder, [kind], True)
        found = list(view.view)
        view.Destroy()
        return found

    @property
    def datacenter(self) -> Any:
        return self.content.rootFolder.childEntity[0]

    def host(self, name: str) -> Any:
        return next(host for host in self.all(vim.HostSystem) if host.name == name)

    def register(self, path: str, host: Any = None, pool: Any = None, name: str | None = None) -> Any:
        host = host or (None if pool else self.all(vim.HostSystem)[0])
        pool = pool or host.parent.resourcePool
        return wait(self.datacenter.vmFolder.RegisterVM_Task(path, name, False, pool, host))

    def copy(self, source: str, target: str, spec: Any = None) -> Any:
        datacenter = self.datacenter
        return self.content.virtualDiskManager.CopyVirtualDisk_Task(source, datacenter, target, datacenter, spec)

    def folder(self, method: str, path: str, body: bytes | None = None, cookie: bool = True, **query: str) -> Any:
        connection = http.client.HTTPSConnection(self.server.host, self.server.port, context=self.tls, timeout=10)
        asked = urllib.parse.urlencode({"dcPath": self.datacenter.name, "dsName": "nfs1"} | query)
        headers = {"Cookie": self.stub.cookie.split(";")[0]} if cookie else {}
        connection.request(method, f"/folder/{path}?{asked}", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content


def wait(task: Any, timeout_s: float = 10) -> Any:
    """The result of a task, or its error raised."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        info = task.info
        if info.state == vim.TaskInfo.State.error:
            raise info.error
        if info.state == vim.TaskInfo.State.success:
            return info.result
        time.sleep(0.005)
    raise AssertionError(f"{task} is still {task.info.state}")


def until(true: Callable[[], object], timeout_s: float = 5) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


class Bed:
    """A datastore directory with a golden disk, and VMs on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        golden_disk(path / "golden", "win", 64, payload=b"golden")
        (path / "inuse").mkdir()

    def author(
        self,
        name: str,
        *,
        memory_mb: int = 512,
        mac: str = "00:50:56:00:00:01",
        disk: str = "disk.vmdk",
        network: str = "Public",
        extra: str = "",
    ) -> str:
        """Write a VM's directory with a VMX and return the VMX's datastore path."""
        home = self.path / "inuse" / name
        home.mkdir()
        text = VMX.format(name=name, memory_mb=memory_mb, mac=mac, disk=disk, network=network)
        (home / f"{name}.vmx").write_text(text + extra)
        if disk == "disk.vmdk":
            golden_disk(home.parent, name, 8)
            (home / f"{name}.vmdk").rename(home / "disk.vmdk")
        return f"[nfs1] inuse/{name}/{name}.vmx"


def used_mb(host: Any) -> int:
    return int(host.summary.quickStats.overallMemoryUsage)
