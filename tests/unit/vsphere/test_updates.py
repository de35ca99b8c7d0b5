"""Change sets as servers write them. Ours writes neither truncated nor missing ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from esxprov.model import EndpointConfig
from esxprov.vsphere.api import vim, vmodl
from esxprov.vsphere.properties import moid
from esxprov.vsphere.session import Session
from esxprov.vsphere.updates import Enter, Leave, Modify, Updates

Query = vmodl.query.PropertyCollector
VM = vim.VirtualMachine("vm-1")
OTHER = vim.VirtualMachine("vm-2")


def told(*objects: Any, truncated: bool = False, version: str = "1", gone: list[Any] | None = None) -> Any:
    """An UpdateSet with one filter's changes."""
    missing = [Query.MissingObject(obj=ref, fault=vmodl.fault.ManagedObjectNotFound(obj=ref)) for ref in gone or ()]
    changes = Query.FilterUpdate(objectSet=list(objects), missingSet=missing)
    return Query.UpdateSet(version=version, filterSet=[changes], truncated=truncated)


def entered(ref: Any, **properties: Any) -> Any:
    return Query.ObjectUpdate(kind="enter", obj=ref, changeSet=[assigned(k, v) for k, v in properties.items()])


def modified(*changes: Any, missing: Any = None) -> Any:
    unread = [Query.MissingProperty(path="name", fault=missing)] if missing else []
    return Query.ObjectUpdate(kind="modify", obj=VM, changeSet=list(changes), missingSet=unread)


def assigned(name: str, value: Any) -> Any:
    return Query.Change(name=name, op="assign", val=value)


class Server(Session):
    """Answers every wait with the next of the prepared answers; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(EndpointConfig("vc1", "https://vc1.example", "svc", "pw"))
        self.versions: list[str] = []
        self.destroyed = 0
        self.renewed = 0
        self._script = list(answers)
        collector = SimpleNamespace(
            CreateFilter=lambda spec, partial: None,
            WaitForUpdatesEx=self._answer,
            DestroyPropertyCollector=self._destroy,
        )
        self.__dict__["content"] = SimpleNamespace(
            rootFolder=vim.Folder("group-d1"),
            propertyCollector=SimpleNamespace(CreatePropertyCollector=lambda: collector),
        )

    def renew(self) -> None:
        self.renewed += 1

    def _destroy(self) -> None:
        self.destroyed += 1

    def _answer(self, version: str, options: Any) -> Any:
        self.versions.append(version)
        answer = self._script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def begun(*answers: Any) -> tuple[Updates, Server]:
    server = Server(told(entered(VM, name="one")), *answers)
    updates = Updates(server)
    updates.begin()
    return updates, server


def test_it_begins_with_everything() -> None:
    server = Server(told(entered(VM, name="one"), entered(OTHER, name="two")))
    found = Updates(server).begin()
    assert {moid(each.ref): each.properties for each in found} == {"vm-1": {"name": "one"}, "vm-2": {"name": "two"}}


def test_a_truncated_beginning_is_read_to_its_end() -> None:
    server = Server(
        told(entered(VM, name="one"), truncated=True, version="1"),
        told(modified(assigned("runtime.powerState", "poweredOn")), entered(OTHER, name="two"), version="2"),
    )
    found = Updates(server).begin()
    assert [each.properties for each in found] == [
        {"name": "one", "runtime.powerState": "poweredOn"},
        {"name": "two"},
    ]
    assert server.versions == ["", "1"]


def test_truncated_changes_are_told_together() -> None:
    updates, server = begun(
        told(modified(assigned("name", "a")), truncated=True, version="2"),
        told(modified(assigned("name", "b")), version="3"),
        None,
    )
    assert updates.next(1) == [Modify(VM, {"name": "a"}), Modify(VM, {"name": "b"})]
    assert updates.next(1) == []
    assert server.versions == ["", "1", "2", "3"]


def test_changes_come_in_the_order_of_the_server() -> None:
    left = Query.ObjectUpdate(kind="leave", obj=VM)
    updates, _ = begun(told(left, entered(VM, name="again")))
    assert updates.next(1) == [Leave(VM), Enter(VM, {"name": "again"})]


@pytest.mark.parametrize(
    "unset",
    [
        modified(Query.Change(name="name", op="remove")),
        modified(Query.Change(name="name", op="indirectRemove")),
        modified(Query.Change(name="name", op="assign")),
        modified(missing=vim.fault.NoPermission()),
    ],
    ids=["removed", "removed with its parent", "assigned nothing", "not to be read any more"],
)
def test_a_property_is_unset(unset: Any) -> None:
    updates, _ = begun(told(unset))
    assert updates.next(1) == [Modify(VM, {"name": None})]


def test_an_object_that_is_missing_has_left() -> None:
    updates, _ = begun(told(gone=[VM]))
    assert updates.next(1) == [Leave(VM)]


def test_a_property_missing_for_want_of_a_session_ends_the_stream() -> None:
    updates, _ = begun(told(modified(missing=vim.fault.NotAuthenticated())))
    with pytest.raises(vim.fault.NotAuthenticated):
        updates.next(1)


def test_it_begins_anew_with_another_collector_and_leaves_none_behind() -> None:
    updates, server = begun(vmodl.query.InvalidCollectorVersion(), told(entered(OTHER, name="two"), version="9"), None)
    with pytest.raises(vmodl.query.InvalidCollectorVersion):
        updates.next(1)
    assert [moid(each.ref) for each in updates.begin()] == ["vm-2"]
    updates.next(1)
    assert server.destroyed == 1
    assert server.versions == ["", "1", "", "9"]


@pytest.mark.parametrize("nothing", [None, vim.fault.NotAuthenticated(), Query.UpdateSet(version="1", filterSet=[])])
def test_a_beginning_without_a_session_logs_in_again(nothing: Any) -> None:
    server = Server(nothing, told(entered(VM, name="one")))
    assert len(Updates(server).begin()) == 1
    assert server.renewed == 1
