"""What the vSphere tests share: a server, an adapter connected to it, and VMs to put there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esxprov.model import EndpointConfig, Vm
from esxprov.vsphere import Endpoint, VSphere
from tests.testbed import vsphere as testbed
from tests.testbed.certificates import Certificates

IMAGE = "[nfs1] golden/img/img.vmdk"
IMAGE_MB = 64


@dataclass
class Rig:
    """A server, its datastore directory, and an adapter for it."""

    server: testbed.VSphere
    store: Path
    certificate: Path

    def config(self, **changes: Any) -> EndpointConfig:
        """How to reach the server; `changes` make it wrong."""
        server = self.server
        right: dict[str, Any] = {
            "name": "e1",
            "url": server.url,
            "user": server.user,
            "password": server.password,
            "ca_file": server.ca,
            "timeout_s": 2,
        }
        return EndpointConfig(**(right | changes))

    @contextmanager
    def connected(self, **changes: Any) -> Iterator[Endpoint]:
        """An adapter, logged out at the end."""
        vsphere = VSphere({"e1": self.config(**changes)})
        try:
            yield vsphere.endpoint("e1")
        finally:
            vsphere.close()

    def golden(self) -> None:
        """The image that the tests copy."""
        testbed.golden_disk(self.store / "golden", "img", IMAGE_MB, payload=b"boot sector")


def start(
    directory: Path,
    authority: Certificates,
    kind: str,
    *,
    certificate: tuple[Path, Path] | None = None,
    **options: Any,
) -> Rig:
    """`kind`: esxi, vcenter, or cluster (a vCenter whose hosts are in one); `options` as in testbed.vsphere.Options."""
    served, key = certificate or authority.issue(f"server-{directory.name}")
    store = directory / "nfs1"
    common: dict[str, Any] = {
        "datastores": {"nfs1": store},
        "networks": ("Private", "Public"),
        "certificate": served,
        "key": key,
        "ca": authority.ca,
    } | options
    if kind == "esxi":
        server = testbed.VSphere.start_esxi(directory, "esx1", 16384, 8, **common)
    else:
        hosts = [testbed.HostSpec("esx1", 16384, 8), testbed.HostSpec("esx2", 32768, 16)]
        server = testbed.VSphere.start_vcenter(directory, hosts, "lab" if kind == "cluster" else None, **common)
    rig = Rig(server, store, served)
    rig.golden()
    return rig


def vmx(name: str, disk: str, *, ram_mb: int = 2048, mac: str = "00:50:56:00:00:aa") -> bytes:
    """A VM with one disk and two cards, the second with a MAC of the hypervisor's choice."""
    lines = {
        "displayName": name,
        "annotation": f"made for {name}",
        "snapshot.redoNotWithParent": "TRUE",
        "memSize": ram_mb,
        "numvcpus": 2,
        "guestOS": "ubuntu-64",
        "scsi0.present": "TRUE",
        "scsi0.virtualDev": "lsilogic",
        "scsi0:0.present": "TRUE",
        "scsi0:0.deviceType": "scsi-hardDisk",
        "scsi0:0.fileName": disk,
        "ethernet0.present": "TRUE",
        "ethernet0.networkName": "Private",
        "ethernet0.addressType": "static",
        "ethernet0.address": mac,
        "ethernet1.present": "TRUE",
        "ethernet1.networkName": "Public",
        "ethernet1.addressType": "generated",
    }
    return "".join(f'{key} = "{value}"\n' for key, value in lines.items()).encode()


def registered(endpoint: Endpoint, name: str, *, disk: str = "img.vmdk", ram_mb: int = 2048) -> Vm:
    """A VM with a copied disk on the endpoint's first host."""
    directory = f"[nfs1] inuse/{name}"
    endpoint.make_directory(directory)
    if disk == "img.vmdk":
        endpoint.copy_disk(IMAGE, f"{directory}/img.vmdk", adapter="lsilogic", progress=lambda percent: None)
    endpoint.write_file(f"{directory}/{name}.vmx", vmx(name, disk, ram_mb=ram_mb))
    return endpoint.register(f"{directory}/{name}.vmx", name, endpoint.hosts()[0].key.moid)


def removed(endpoint: Endpoint, vm: Vm) -> None:
    """Nothing of it is left."""
    endpoint.power_off(vm)
    endpoint.unregister(vm)
    endpoint.delete(vm.vmx_path.rpartition("/")[0])
