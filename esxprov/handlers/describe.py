"""What lies beside the disk of an image that is being made: the hardware its guest knows, and the manifest."""

from __future__ import annotations

import hashlib

from esxprov.errors import ProvisioningError
from esxprov.handlers.image import maker
from esxprov.job import Job
from esxprov.library import manifest as manifests
from esxprov.library.manifest import Manifest, Source
from esxprov.model import DiskInfo, ImageWork
from esxprov.ports import Hypervisor


def describe(
    job: Job, hypervisor: Hypervisor, work: ImageWork, copy: DiskInfo, hardware: bytes, source: Source, computer: str
) -> Manifest:
    """Write both into the directory of `work`, where `copy` is; returns the manifest.

    It is read back: an image whose manifest cannot be read would be a taken name for ever. Raises `vsphere_fault`.
    """
    if hardware:
        hypervisor.write_file(f"{work.path}/{work.image}.vmx", hardware)
    manifest = Manifest(
        image=work.image,
        made_for=maker(job),
        source=source,
        purpose=work.purpose,
        computer=computer,
        capacity_mb=copy.capacity_mb,
        allocated_mb=hypervisor.allocated_mb(copy.path),
        adapter=copy.adapter,
        create_type=copy.create_type,
        thin=copy.thin,
        descriptor_sha256=hashlib.sha256(hypervisor.read_file(copy.path) or b"").hexdigest(),
        made_at=job.now().isoformat(),
    )
    path = f"{work.path}/{manifests.FILE}"
    hypervisor.write_file(path, manifest.text())
    if manifests.read(hypervisor.read_file(path)) != manifest:
        raise ProvisioningError(
            "vsphere_fault", f"{path} does not hold what was written: look at the datastore", retryable=True
        )
    return manifest
