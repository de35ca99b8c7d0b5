"""unload and post_maintenance_action: the computer's VM goes, its directory and its capacity with it."""

from __future__ import annotations

from typing import Any

from esxprov.handlers import vm
from esxprov.job import Job
from esxprov.ports import Tools


def unload(job: Job, tools: Tools) -> dict[str, Any]:
    """Power off, unregister, delete this computer's own directory, release its claims.

    On an endpoint that does not answer the VM is recorded as to be destroyed and its claim stays: `removed` is false
    then, and the call is a success all the same, because vcld leaves a slot stuck for ever if unload fails.
    """
    computer = job.request.computer
    site = vm.Site.of(job.request, tools)
    with job.step("destroy", f"removing {computer.name}"):
        silent = vm.destroy(tools, site, computer)
    return {"removed": not silent, "unreachable": silent}
