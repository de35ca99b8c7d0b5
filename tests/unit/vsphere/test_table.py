"""Folding what an endpoint tells and what it is asked into one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from esxprov.model import Host, PowerState, Vm
from esxprov.vsphere.api import vim
from esxprov.vsphere.inventory import Objects
from esxprov.vsphere.properties import Found
from esxprov.vsphere.table import Poll, Table
from esxprov.vsphere.updates import Enter, Leave, Modify, Update

FOLDER = vim.Folder("folder-1")
DATACENTER = vim.Datacenter("dc-1")
CLUSTER = vim.ClusterComputeResource("cluster-1")
STORE = vim.Datastore("ds-1")
HOSTS = [vim.HostSystem("host-1"), vim.HostSystem("host-2")]
VMS = [vim.VirtualMachine(f"vm-{number}") for number in range(4)]
GB = 1024**3


def tree(vms: int = 2) -> dict[Any, dict[str, Any]]:
    """What a small vCenter has: by each object its properties."""
    return {
        DATACENTER: {"name": "lab", "parent": FOLDER},
        CLUSTER: {"name": "blades", "parent": DATACENTER},
        STORE: {"name": "nfs1", "summary.freeSpace": 5 * GB, "summary.capacity": 9 * GB, "summary.accessible": True},
        **{host: host_properties() for host in HOSTS},
        **{vim.VirtualMachine(f"vm-{number}"): vm_properties() for number in range(vms)},
    }


def host_properties() -> dict[str, Any]:
    return {"name": "esx", "parent": CLUSTER, "datastore": [STORE], "runtime.connectionState": "connected"}


def vm_properties() -> dict[str, Any]:
    return {
        "name": "vm",
        "runtime.host": HOSTS[0],
        "runtime.powerState": "poweredOff",
        "config.files.vmPathName": "[nfs1] vm/vm.vmx",
        "config.hardware.memoryMB": 1024,
        "config.hardware.numCPU": 1,
    }


def found(objects: dict[Any, dict[str, Any]]) -> list[Found]:
    return [Found(ref, dict(properties)) for ref, properties in objects.items()]


def filled(objects: dict[Any, dict[str, Any]] | None = None) -> Table:
    table = Table("vc1")
    poll(table, objects or tree())
    return table


def poll(table: Table, objects: dict[Any, dict[str, Any]]) -> bool:
    begun = table.begin()
    changed = table.correct(begun, found(objects))
    table.end(begun)
    return changed


def hosts(table: Table) -> dict[str, Host]:
    return {host.key.moid: host for host in table.hosts()}


def vms(table: Table) -> dict[str, Vm]:
    return {vm.moid: vm for vm in table.vms()}


# --- one source ------------------------------------------------------------------------------------------------------


def test_values_are_those_of_a_fresh_look() -> None:
    fresh = Objects("vc1", found(tree()))
    table = filled()
    assert list(table.hosts()) == fresh.hosts()
    assert list(table.vms()) == fresh.vms()


def test_one_property_told_changes_one_value() -> None:
    table = filled()
    assert table.fold([Modify(VMS[0], {"runtime.powerState": "poweredOn"})])
    assert [vm.power for vm in table.vms()] == [PowerState.ON, PowerState.OFF]


def test_a_vm_that_enters_is_there_and_one_that_leaves_is_gone() -> None:
    table = filled()
    table.fold([Enter(VMS[2], vm_properties()), Leave(VMS[0])])
    assert list(vms(table)) == ["vm-1", "vm-2"]


def test_a_vm_that_is_told_anew_has_only_what_is_told() -> None:
    table = filled()
    table.fold([Enter(VMS[0], {"name": "lost", "runtime.powerState": "poweredOff"})])
    assert (vms(table)["vm-0"].vmx_path, vms(table)["vm-0"].ram_mb) == ("", 0)


def test_a_property_that_is_unset_is_not_remembered() -> None:
    table = filled()
    table.fold([Modify(VMS[0], {"config.files.vmPathName": None})])
    assert vms(table)["vm-0"].vmx_path == ""


def test_a_vm_of_which_nobody_knows_whether_it_is_on_has_no_value() -> None:
    table = filled()
    table.fold([Modify(VMS[0], {"runtime.powerState": None})])
    assert list(vms(table)) == ["vm-1"]


def test_free_space_changes_every_host_of_the_datastore() -> None:
    table = filled()
    table.fold([Modify(STORE, {"summary.freeSpace": GB})])
    assert [host.datastores[0].free_mb for host in table.hosts()] == [1024, 1024]


def test_what_is_told_but_makes_no_difference_is_no_change() -> None:
    table = filled()
    before = table.vms()
    assert not table.fold([Modify(VMS[0], {"runtime.powerState": "poweredOff"}), Modify(VMS[1], {"other": 1})])
    assert not poll(table, tree())
    assert table.vms() is before


def test_a_change_of_an_unknown_object_is_a_gap_until_the_next_poll() -> None:
    table = filled()
    assert not table.fold([Modify(VMS[3], {"runtime.powerState": "poweredOn"})])
    assert table.has_gaps
    poll(table, tree())
    assert not table.has_gaps


# --- two sources -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([Modify(VMS[0], {"runtime.powerState": "poweredOn"})], {"vm-0": PowerState.ON, "vm-1": PowerState.OFF}),
        ([Modify(VMS[0], {"runtime.powerState": None})], {"vm-1": PowerState.OFF}),
        ([Leave(VMS[0])], {"vm-1": PowerState.OFF}),
        (
            [Enter(VMS[2], {**vm_properties(), "runtime.powerState": "suspended"})],
            {"vm-0": PowerState.OFF, "vm-1": PowerState.OFF, "vm-2": PowerState.SUSPENDED},
        ),
    ],
    ids=["modify", "unset", "leave", "enter"],
)
def test_what_is_told_while_a_poll_is_under_way_is_not_overwritten_by_it(
    told: list[Update], expected: dict[str, PowerState]
) -> None:
    table = filled()
    begun = table.begin()
    table.fold(told)
    table.correct(begun, found(tree()))
    assert {key: vm.power for key, vm in vms(table).items()} == expected


def test_what_is_not_told_is_corrected_by_a_poll_that_was_overtaken_in_something_else() -> None:
    table, now = filled(), tree()
    now[VMS[0]]["config.hardware.memoryMB"] = 4096
    begun = table.begin()
    table.fold([Modify(VMS[0], {"runtime.powerState": "poweredOn"})])
    table.correct(begun, found(now))
    assert (vms(table)["vm-0"].power, vms(table)["vm-0"].ram_mb) == (PowerState.ON, 4096)


def test_what_was_told_before_a_poll_began_is_overwritten_by_it() -> None:
    table = filled()
    table.fold([Modify(VMS[0], {"runtime.powerState": "poweredOn"})])
    poll(table, tree())
    assert vms(table)["vm-0"].power is PowerState.OFF


def test_a_poll_that_is_late_does_not_overwrite_one_that_began_after_it() -> None:
    table, later = filled(), tree()
    later[VMS[0]]["config.hardware.memoryMB"] = 4096
    slow, quick = table.begin(), table.begin()
    table.correct(quick, found(later))
    table.correct(slow, found(tree()))
    assert vms(table)["vm-0"].ram_mb == 4096


# --- what has changed ------------------------------------------------------------------------------------------------


def test_what_there_is_is_the_same_object_until_it_changes() -> None:
    table = filled()
    hosts_before, vms_before = table.hosts(), table.vms()
    assert table.fold([Modify(VMS[0], {"name": "other"})])
    assert table.hosts() is hosts_before
    assert [vm.name for vm in table.vms() if vm not in vms_before] == ["other"]
    after = table.vms()
    assert not table.fold([Modify(VMS[0], {"name": "other"})])
    assert table.vms() is after


def test_a_vm_that_came_back_is_not_gone() -> None:
    table = filled()
    assert table.fold([Leave(VMS[1])])
    assert "vm-1" not in vms(table)
    assert table.fold([Enter(VMS[1], vm_properties())])
    assert "vm-1" in vms(table)


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many values are made of what."""
    made: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        make = getattr(Objects, name)

        def counts(self: Objects, each: Found) -> Any:
            made[name] += 1
            return make(self, each)

        return counts

    for name in ("host", "vm"):
        monkeypatch.setattr(Objects, name, counting(name))
    return made


def test_one_update_costs_one_value_however_many_vms_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    table = filled(tree(vms=10_000))
    made = counted(monkeypatch)
    table.fold([Modify(VMS[0], {"runtime.powerState": "poweredOn"})])
    assert made == {"vm": 1}


def test_a_poll_makes_only_the_values_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    table, now = filled(tree(vms=100)), tree(vms=100)
    now[VMS[0]]["config.hardware.memoryMB"] = 4096
    made = counted(monkeypatch)
    poll(table, now)
    assert made == {"vm": 1}


# --- any order -------------------------------------------------------------------------------------------------------

_SETTING = st.sampled_from(
    [
        ("runtime.powerState", "poweredOn"),
        ("runtime.powerState", "poweredOff"),
        ("runtime.powerState", None),
        ("runtime.host", HOSTS[0]),
        ("runtime.host", HOSTS[1]),
        ("name", "one"),
        ("name", "other"),
    ]
)


class Endpoint(RuleBasedStateMachine):
    """An endpoint whose changes are told late but in order, some never; polls that are read and answered late; and
    one who follows the changes of the table.
    """

    def __init__(self) -> None:
        super().__init__()
        self.truth = tree()
        self.untold: list[Update] = []
        self.reads: list[tuple[Poll, list[Found]]] = []
        self.asked: list[Poll] = []
        self.table = filled(self.truth)

    @rule(vm=st.sampled_from(VMS), setting=_SETTING)
    def change(self, vm: Any, setting: tuple[str, Any]) -> None:
        path, value = setting
        if vm in self.truth:
            self.truth[vm].pop(path, None)
            self.truth[vm] |= {} if value is None else {path: value}
            self.untold.append(Modify(vm, {path: value}))

    @rule(store=st.integers(0, 3), host=st.sampled_from(HOSTS), mounted=st.booleans())
    def change_host(self, store: int, host: Any, mounted: bool) -> None:
        self.truth[STORE]["summary.freeSpace"] = store * GB
        self.truth[host]["datastore"] = [STORE] if mounted else []
        self.untold.append(Modify(STORE, {"summary.freeSpace": store * GB}))
        self.untold.append(Modify(host, {"datastore": [STORE] if mounted else []}))

    @rule(vm=st.sampled_from(VMS), ram_mb=st.sampled_from([1024, 2048, 4096]))
    def change_untold(self, vm: Any, ram_mb: int) -> None:
        if vm in self.truth:
            self.truth[vm]["config.hardware.memoryMB"] = ram_mb

    @rule(vm=st.sampled_from(VMS))
    def come_or_go(self, vm: Any) -> None:
        if vm in self.truth:
            del self.truth[vm]
            self.untold.append(Leave(vm))
        else:
            self.truth[vm] = vm_properties()
            self.untold.append(Enter(vm, vm_properties()))

    @rule(number=st.integers(1, 3))
    def tell(self, number: int) -> None:
        told, self.untold = self.untold[:number], self.untold[number:]
        self.table.fold(told)

    @rule()
    def ask(self) -> None:
        self.asked.append(self.table.begin())

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 9))
    def read(self, which: int) -> None:
        poll = self.asked.pop(which % len(self.asked))
        self.reads.append((poll, found(self.truth)))

    @precondition(lambda self: self.reads)
    @rule(which=st.integers(0, 9))
    def answer(self, which: int) -> None:
        poll, read = self.reads.pop(which % len(self.reads))
        self.table.correct(poll, read)
        self.table.end(poll)

    @invariant()
    def values_are_those_of_the_objects(self) -> None:
        objects = self.table._objects
        assert hosts(self.table) == {host.key.moid: host for host in objects.hosts()}
        assert vms(self.table) == {vm.moid: vm for vm in objects.vms()}

    def teardown(self) -> None:
        self.tell(len(self.untold))
        while self.asked:
            self.read(0)
        while self.reads:
            self.answer(0)
        fresh = Objects("vc1", found(self.truth))
        # Without another poll, all that is told is right.
        assert {host.key.moid: host for host in fresh.hosts()} == hosts(self.table)
        assert {vm.moid: (vm.power, vm.host_moid, vm.name) for vm in fresh.vms()} == {
            vm.moid: (vm.power, vm.host_moid, vm.name) for vm in self.table.vms()
        }
        poll(self.table, self.truth)
        assert {vm.moid: vm for vm in fresh.vms()} == vms(self.table)


TestAnyOrder = Endpoint.TestCase
TestAnyOrder.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
