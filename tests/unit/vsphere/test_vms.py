"""Questions that a VM asks while it is switched on, and the tasks behind a VM's methods. No server here has them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from esxprov.errors import ProvisioningError
from esxprov.model import EndpointConfig, PowerState, Vm
from esxprov.vsphere import vms
from esxprov.vsphere.api import vim
from esxprov.vsphere.session import Session

VM = Vm("esx1", "7", "labvm-017", "ha-host", "[nfs1] inuse/labvm-017/labvm-017.vmx", PowerState.OFF, 1024, 1)


def question(message_id: str, text: str, *labels: str) -> Any:
    """As ESXi asks it: numbered choices, each with a label."""
    options = [vim.ElementDescription(key=str(i), label=label, summary=label) for i, label in enumerate(labels)]
    return vim.vm.QuestionInfo(
        id="42",
        text=text,
        choice=vim.option.ChoiceOption(choiceInfo=options, defaultIndex=0),
        message=[vim.vm.Message(id=message_id, text=text)],
    )


MOVED = question(
    "msg.uuid.altered", "This virtual machine might have been moved.", "Cancel", "I Moved It", "I Copied It"
)


class Server:
    """Just so much of a server that a power-on task hangs on a question until it is answered."""

    def __init__(self, asked: Any) -> None:
        self.asked = asked
        self.answers: list[tuple[str, str]] = []
        self.cancelled = False
        self.session = Session(EndpointConfig("esx1", "https://esx1.example", "svc", "pw"))
        collector = SimpleNamespace(
            RetrievePropertiesEx=self.look,
            CreateFilter=lambda spec, partial: SimpleNamespace(DestroyPropertyFilter=lambda: None),
            WaitForUpdatesEx=lambda version, options: None,
        )
        collector.CreatePropertyCollector = lambda: collector
        self.session.__dict__["content"] = SimpleNamespace(propertyCollector=collector)
        self.session.__dict__["_stub"] = self

    def InvokeMethod(self, ref: Any, info: Any, args: Any) -> Any:
        """What pyVmomi calls for every method of a managed object."""
        if info.wsdlName == "AnswerVM":
            self.answers.append(tuple(args))
        elif info.wsdlName == "CancelTask":
            self.cancelled = True
        return vim.Task("task-1", self)

    def look(self, specs: Any, options: Any) -> Any:
        done = bool(self.answers)
        state: dict[str, Any] = {"info.state": "success" if done else "error" if self.cancelled else "running"}
        beside: dict[str, Any] = {} if done or self.asked is None else {"runtime.question": self.asked}
        objects = [found(vim.Task("task-1", self), state), found(vim.VirtualMachine("7", self), beside)]
        return SimpleNamespace(objects=objects, token=None)


def found(ref: Any, properties: dict[str, Any]) -> Any:
    """An ObjectContent."""
    return SimpleNamespace(
        obj=ref, propSet=[SimpleNamespace(name=name, val=val) for name, val in properties.items()], missingSet=[]
    )


def test_moved_or_copied_is_answered_with_copied() -> None:
    server = Server(MOVED)
    vms.power_on(server.session, VM)
    assert server.answers == [("42", "2")]


def test_a_vm_that_was_moved_is_said_to_be_and_keeps_its_identity() -> None:
    server = Server(MOVED)
    vms.power_on(server.session, VM, moved=True)
    assert server.answers == [("42", "1")]


def test_any_other_question_is_left_to_a_human_and_the_task_is_cancelled() -> None:
    server = Server(question("msg.hbacommon.outofspace", "There is no more space\n on nfs1.", "Retry", "Cancel"))
    with pytest.raises(ProvisioningError, match="There is no more space on nfs1") as raised:
        vms.power_on(server.session, VM)
    assert server.answers == []
    assert server.cancelled
    assert raised.value.host == "esx1/ha-host"
    assert raised.value.detail["messages"] == ["msg.hbacommon.outofspace"]


def test_a_uuid_question_without_the_wanted_choice_is_left_to_a_human() -> None:
    server = Server(question("msg.uuid.altered", "moved?", "Yes", "No"))
    with pytest.raises(ProvisioningError, match="waits for an answer"):
        vms.power_on(server.session, VM)


def test_a_power_state_that_is_not_told_is_never_taken_for_off() -> None:
    session = Session(EndpointConfig("vc1", "https://vc1.example", "svc", "pw"))
    nothing = SimpleNamespace(objects=[found(vim.VirtualMachine("7"), {})], token=None)
    collector = SimpleNamespace(RetrievePropertiesEx=lambda specs, options: nothing)
    session.__dict__.update(content=SimpleNamespace(propertyCollector=collector), _stub=None)
    with pytest.raises(ProvisioningError, match="cannot tell"):
        vms.power_state(session, VM)


@pytest.mark.parametrize(
    ("backing", "name"),
    [
        (vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName="Private"), "Private"),
        (vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName="VLAN%2f12"), "VLAN/12"),
        (vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName="Elsewhere"), None),
        (
            vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(
                port=vim.dvs.PortConnection(switchUuid="x", portgroupKey="dvportgroup-1")
            ),
            "Public",
        ),
        (None, None),
    ],
)
def test_a_card_is_connected_to_what_its_host_has(backing: Any, name: str | None) -> None:
    assert vms._network(backing, {"Private", "VLAN/12"}, {"dvportgroup-1": "Public"}) == name
