"""What servers answer that ours does not: pages, empty answers, the same datastore in two datacenters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from esxprov import ports
from esxprov.errors import ProvisioningError
from esxprov.model import EndpointConfig
from esxprov.vsphere import Endpoint, VSphere, inventory, properties
from esxprov.vsphere.api import vim
from esxprov.vsphere.inventory import Place, plain
from esxprov.vsphere.places import Places
from esxprov.vsphere.session import Session

CONFIG = EndpointConfig("vc1", "https://vc1.example", "svc", "pw")
STORES = properties.spec({vim.Datastore: ["name"]}, [vim.Datastore("ds-1")])


def page(*names: str, token: str | None = None) -> Any:
    """A RetrieveResult of datastores."""
    objects = [
        SimpleNamespace(
            obj=vim.Datastore(f"ds-{name}"), propSet=[SimpleNamespace(name="name", val=name)], missingSet=[]
        )
        for name in names
    ]
    return SimpleNamespace(objects=objects, token=token)


class Connected(Session):
    """A session whose server gives prepared answers, one after the other."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(CONFIG)
        self.renewed = 0
        script = list(answers)
        self.__dict__["content"] = SimpleNamespace(
            propertyCollector=SimpleNamespace(
                RetrievePropertiesEx=lambda specs, options: script.pop(0),
                ContinueRetrievePropertiesEx=lambda token: script.pop(0),
            )
        )

    def renew(self) -> None:
        self.renewed += 1


def names(session: Session) -> list[str]:
    return [each.get("name") for each in properties.retrieve(session, STORES)]


def test_all_pages_of_an_answer_are_read() -> None:
    assert names(Connected(page("a", "b", token="1"), page("c", token="2"), page("d"))) == ["a", "b", "c", "d"]


def test_a_vm_whose_datastore_is_away_is_listed_all_the_same() -> None:
    said = [SimpleNamespace(name="name", val="lost"), SimpleNamespace(name="runtime.powerState", val="poweredOff")]
    lost = SimpleNamespace(obj=vim.VirtualMachine("7"), propSet=said, missingSet=[])
    session = Connected(SimpleNamespace(objects=[lost], token=None))
    session.content.rootFolder = vim.Folder("ha-folder-root")
    assert [(vm.moid, vm.vmx_path) for vm in inventory.vms(session)] == [("7", "")]


def test_an_empty_answer_is_an_expired_session() -> None:
    session = Connected(None, page("a"))
    assert names(session) == ["a"]
    assert session.renewed == 1


def test_an_answer_that_misses_its_properties_for_want_of_a_session_is_an_expired_session() -> None:
    hollow = page("a")
    hollow.objects[0].propSet = []
    hollow.objects[0].missingSet = [SimpleNamespace(path="name", fault=vim.fault.NotAuthenticated())]
    session = Connected(hollow, page("a"))
    assert names(session) == ["a"]
    assert session.renewed == 1


def test_a_property_that_is_missing_for_another_reason_is_just_missing() -> None:
    hollow = page("a")
    hollow.objects[0].missingSet = [SimpleNamespace(path="other", fault=vim.fault.NoPermission())]
    session = Connected(hollow)
    assert names(session) == ["a"]
    assert session.renewed == 0


def place(datacenter: str, url: str) -> Place:
    return Place(datastore=None, browser=None, datacenter=datacenter, datacenter_path=datacenter, url=url)


def knowing(*known: Place) -> Places:
    places = Places(Session(CONFIG))
    places.learn(SimpleNamespace(places=lambda: {"nfs1": list(known)}, homes=dict))  # type: ignore[arg-type]
    return places


def test_one_export_in_two_datacenters_is_one_datastore() -> None:
    assert knowing(place("A", "ds:///x/"), place("B", "ds:///x/")).of("nfs1").datacenter_path == "A"


def test_two_datastores_of_one_name_are_refused() -> None:
    with pytest.raises(ProvisioningError, match="different datastores called 'nfs1' in A, B"):
        knowing(place("A", "ds:///x/"), place("B", "ds:///y/")).of("nfs1")


def test_names_are_shown_as_admins_write_them() -> None:
    assert plain("VLAN%2f12 100%25 a%5cb") == "VLAN/12 100% a\\b"


def test_the_adapters_are_what_handlers_ask_for() -> None:
    hypervisors: ports.Hypervisors = VSphere({"vc1": CONFIG})
    hypervisor: ports.Hypervisor = Endpoint(CONFIG)
    assert hypervisors.endpoint("vc1").name == hypervisor.name == "vc1"
