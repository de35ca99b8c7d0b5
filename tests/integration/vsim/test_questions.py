"""Questions that VMs ask, and what the answers do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esxprov.vsphere.api import vim, vmodl
from tests.integration.vsim.rig import Bed, Client, until, wait
from tests.testbed.vsphere import TestbedError, VSphere

MOVED = ("This virtual machine might have been moved or copied.", ("Cancel", "I Moved It", "I Copied It"))


def identity(vm: object) -> tuple[str, list[str]]:
    config = vm.config  # type: ignore[attr-defined]
    return config.uuid, [device.macAddress for device in config.hardware.device if hasattr(device, "macAddress")]


@pytest.mark.parametrize(("choice", "keeps"), [("1", True), ("2", False)], ids=["moved", "copied"])
def test_a_power_on_waits_for_the_answer_and_only_a_copy_gets_a_new_identity(
    client: Client, bed: Bed, choice: str, keeps: bool
) -> None:
    client.server.set_question("vm1", *MOVED, message="msg.uuid.altered", at_power_on=True)
    path = bed.author("vm1")
    vm = client.register(path)
    before = identity(vm)
    task = vm.PowerOnVM_Task()
    until(lambda: vm.runtime.question is not None)
    asked = vm.runtime.question
    assert asked.message[0].id == "msg.uuid.altered"
    assert [option.label for option in asked.choice.choiceInfo] == list(MOVED[1])
    assert (task.info.state, vm.runtime.powerState) == ("running", "poweredOff")
    vm.AnswerVM(asked.id, choice)
    wait(task)
    assert vm.runtime.question is None
    uuid, macs = identity(vm)
    assert (uuid == before[0]) is keeps
    assert macs[0] == "00:50:56:00:00:01"
    assert (macs[1] == before[1][1]) is keeps
    wait(vm.PowerOffVM_Task())
    wait(vm.PowerOnVM_Task())
    wait(vm.PowerOffVM_Task())
    vm.UnregisterVM()
    assert identity(client.register(path)) == (uuid, macs)


def test_an_answer_must_fit_the_question(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    with pytest.raises(vmodl.fault.InvalidArgument):
        vm.AnswerVM("1", "0")
    client.server.set_question("vm1", "More space?", ("Retry", "Cancel"))
    asked = vm.runtime.question
    for answer in (("x", "0"), (asked.id, "2"), (asked.id, "Retry")):
        with pytest.raises(vmodl.fault.InvalidArgument):
            vm.AnswerVM(*answer)
    vm.AnswerVM(asked.id, "0")
    assert vm.runtime.question is None


def test_a_question_that_is_cancelled_ends_the_power_on(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    client.server.set_question("vm1", "Redo log is damaged.", ("Continue", "Cancel"))
    task = vm.PowerOnVM_Task()
    vm.AnswerVM(vm.runtime.question.id, "1")
    with pytest.raises(vim.fault.GenericVmConfigFault):
        wait(task)
    assert vm.runtime.powerState == "poweredOff"


def test_a_question_that_makes_no_sense_is_refused(esx: Client) -> None:
    with pytest.raises(TestbedError, match="without choices"):
        esx.server.set_question("vm1", "Well?", ())
    with pytest.raises(TestbedError, match="no VM vm1"):
        esx.server.set_question("vm1", "Well?", ("Yes",))


def test_a_guest_without_vmware_tools_cannot_be_asked_to_shut_down(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    wait(vm.PowerOnVM_Task())
    client.server.set_guest("vm1", tools=False)
    with pytest.raises(vim.fault.ToolsUnavailable):
        vm.ShutdownGuest()
    client.server.set_guest("vm1", tools=True)
    vm.ShutdownGuest()
    until(lambda: vm.runtime.powerState == "poweredOff")


def test_a_changed_password_matters_at_the_next_login(client: Client) -> None:
    old = client.server.password
    client.server.set_password("new")
    assert client.all(vim.HostSystem)
    client.server.expire_sessions()
    with pytest.raises(vim.fault.InvalidLogin):
        client.content.sessionManager.Login(client.server.user, old)
    assert Client(client.server).all(vim.HostSystem)


def test_free_space_can_be_as_old_as_the_last_refresh(start: Callable[..., VSphere], bed: Bed) -> None:
    client = Client(start("esx1", capacity_mb=100, stale_space=True))
    datastore = client.all(vim.Datastore)[0]
    before = datastore.summary.freeSpace
    assert client.folder("PUT", "file", b"x" * 1024 * 1024)[0] == 201
    assert datastore.summary.freeSpace == before
    datastore.RefreshDatastore()
    assert datastore.summary.freeSpace == before - 1024 * 1024
