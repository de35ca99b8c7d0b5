"""Changes that are streamed to whoever waits for them."""

from __future__ import annotations

from typing import Any

import pytest

from esxprov.vsphere.api import vim, vmodl
from tests.integration.vsim.rig import Bed, Client, Query, until, wait


def test_changes_of_hosts_vms_and_tasks_are_streamed(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    host = vm.runtime.host
    collector = client.content.propertyCollector.CreatePropertyCollector()
    specs = [
        (host, ["summary.quickStats.overallMemoryUsage", "runtime.inMaintenanceMode", "runtime.connectionState", "vm"]),
        (vm, ["runtime.powerState", "config.hardware.memoryMB"]),
    ]
    for managed, paths in specs:
        prop = Query.PropertySpec(type=type(managed), pathSet=paths)
        spec = Query.FilterSpec(objectSet=[Query.ObjectSpec(obj=managed)], propSet=[prop])
        collector.CreateFilter(spec, True)
    version = collector.WaitForUpdatesEx("", None).version
    wait(vm.PowerOnVM_Task())
    wait(vm.PowerOffVM_Task())
    wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(memoryMB=1024)))
    client.server.set_host(host.name, maintenance=True)
    vm.UnregisterVM()
    seen: dict[str, list[Any]] = {}
    left: list[Any] = []

    def all_seen() -> bool:
        nonlocal version
        news = collector.WaitForUpdatesEx(version, Query.WaitOptions(maxWaitSeconds=1))
        if news:
            version = news.version
            for update in (o for f in news.filterSet for o in f.objectSet):
                left.extend([update.obj] if update.kind == "leave" else [])
                for changed in update.changeSet:
                    seen.setdefault(changed.name, []).append(changed.val)
        return "vm" in seen and bool(left)

    until(all_seen)
    assert left == [vm]
    assert seen["runtime.powerState"] == ["poweredOn", "poweredOff"]
    assert seen["summary.quickStats.overallMemoryUsage"][:2] == [1024 + 512, 1024]
    assert seen["config.hardware.memoryMB"] == [1024]
    assert seen["runtime.inMaintenanceMode"] == [True]


def test_what_happened_to_a_vm_that_is_gone_meanwhile_is_told_to_a_filter_on_several_types(
    client: Client, bed: Bed
) -> None:
    vm = client.register(bed.author("vm1"))
    host = vm.runtime.host
    collector = client.content.propertyCollector.CreatePropertyCollector()
    spec = Query.FilterSpec(
        objectSet=[Query.ObjectSpec(obj=managed) for managed in (host, vm)],
        propSet=[
            Query.PropertySpec(type=vim.HostSystem, pathSet=["runtime.inMaintenanceMode"]),
            Query.PropertySpec(type=vim.VirtualMachine, pathSet=["runtime.powerState"]),
        ],
    )
    collector.CreateFilter(spec, False)
    version = collector.WaitForUpdatesEx("", None).version
    wait(vm.PowerOnVM_Task())
    wait(vm.PowerOffVM_Task())
    vm.UnregisterVM()
    news = collector.WaitForUpdatesEx(version, Query.WaitOptions(maxWaitSeconds=5))
    told = [(update.obj, update.kind, [c.val for c in update.changeSet]) for update in news.filterSet[0].objectSet]
    assert told == [(vm, "modify", ["poweredOn"]), (vm, "modify", ["poweredOff"]), (vm, "leave", [])]


def test_a_filter_on_an_object_that_is_gone_is_refused_unless_it_may_be_missing(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    vm.UnregisterVM()
    collector = client.content.propertyCollector.CreatePropertyCollector()
    spec = Query.FilterSpec(
        objectSet=[Query.ObjectSpec(obj=vm)], propSet=[Query.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])]
    )
    with pytest.raises(vmodl.fault.ManagedObjectNotFound) as caught:
        collector.CreateFilter(spec, False)
    assert caught.value.obj == vm
    spec.reportMissingObjectsInResults = True
    collector.CreateFilter(spec, False)
    assert collector.WaitForUpdatesEx("", None).filterSet == []
