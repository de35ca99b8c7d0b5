"""What is done to a VM: registering, switching, reading its devices."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from esxprov.errors import ProvisioningError
from esxprov.model import BASE_SNAPSHOT, AttachedDisk, Condition, HostKey, Nic, PowerState, Vm
from esxprov.vsphere import faults, inventory, properties, tasks
from esxprov.vsphere.api import vim, vmodl
from esxprov.vsphere.paths import DatastorePath
from esxprov.vsphere.places import Places
from esxprov.vsphere.properties import traverse
from esxprov.vsphere.session import Session

log = logging.getLogger(__name__)

Gone = vmodl.fault.ManagedObjectNotFound

_COPIED_OR_MOVED = "msg.uuid.altered"


def ref_of(session: Session, vm: Vm) -> Any:
    return session.ref(vim.VirtualMachine, vm.moid)


def find(session: Session, places: Places, path: DatastorePath) -> Vm | None:
    """The VM registered with that VMX, in whichever datacenter; None also if the endpoint has no such datastore."""
    index = session.content.searchIndex
    for place in places.all_of(path.datastore):
        try:
            ref = session.call(partial(index.FindByDatastorePath, place.datacenter, str(path)), repeatable=True)
            if ref is not None:
                return inventory.vm(session, ref)
        except (vim.fault.InvalidDatastore, Gone) as fault:
            log.debug("%s on %s: %s", path, session.config.name, type(fault).__name__)
    return None


def register(session: Session, places: Places, path: DatastorePath, name: str, host_moid: str) -> Vm:
    """Tried before it is looked for: a VM that is there already refuses, and only then is found."""
    home = places.home_of(host_moid)
    host = session.ref(vim.HostSystem, host_moid)
    try:
        ref = tasks.run(session, lambda: home.folder.RegisterVM_Task(str(path), name, False, home.pool, host))
    except (vim.fault.AlreadyExists, vim.fault.DuplicateName):
        found = find(session, places, path)
        if found is None:
            raise
        return found
    return inventory.vm(session, ref)


def unregister(session: Session, vm: Vm) -> None:
    """Its files stay. (Destroy_Task would take disks along that other VMs are linked to.)"""
    try:
        session.call(ref_of(session, vm).UnregisterVM)
    except Gone:
        log.debug("%s is not registered any more", vm.name)


def snapshot(session: Session, vm: Vm) -> None:
    ref = ref_of(session, vm)
    description = "esxprov: keeps the image's disk from being written"
    with _registered(session, vm):
        tasks.run(session, lambda: ref.CreateSnapshot_Task(BASE_SNAPSHOT, description, False, False))


def power_on(session: Session, vm: Vm, *, moved: bool = False) -> None:
    """The task of a VM with a question runs until the question is answered, so it is watched for one."""
    ref = ref_of(session, vm)
    answered: set[str] = set()

    def answer(question: Any) -> None:
        if question.id not in answered:
            answered.add(question.id)
            choice = _choice(session, vm, question, "moved" if moved else "copied")
            session.call(lambda: ref.AnswerVM(question.id, choice))

    with _registered(session, vm):
        try:
            tasks.run(session, ref.PowerOnVM_Task, beside=(ref, "runtime.question"), seen=answer)
        except vim.fault.InvalidPowerState:
            if inventory.power_state(session, ref) is not PowerState.ON:
                raise


def shutdown_guest(session: Session, vm: Vm) -> bool:
    """Ask the guest to shut down, not waiting for it; False if nobody in it can be asked."""
    with _registered(session, vm):
        try:
            session.call(ref_of(session, vm).ShutdownGuest)
        except (vim.fault.ToolsUnavailable, vim.fault.InvalidPowerState, vmodl.fault.NotSupported) as fault:
            log.info("%s cannot be asked to shut down: %s", vm.name, faults.name_of(fault))
            return False
    return True


def power_off(session: Session, vm: Vm) -> None:
    """Off, or not registered any more, is off."""
    ref = ref_of(session, vm)
    try:
        tasks.run(session, ref.PowerOffVM_Task)
    except vim.fault.InvalidPowerState:
        if inventory.power_state(session, ref) is not PowerState.OFF:
            raise
    except Gone:
        log.debug("%s is not registered any more", vm.name)


def reset(session: Session, vm: Vm) -> None:
    ref = ref_of(session, vm)
    with _registered(session, vm):
        try:
            tasks.run(session, ref.ResetVM_Task)
            return
        except vim.fault.InvalidPowerState:
            log.info("%s is not running: switching it on instead", vm.name)
    power_on(session, vm)


def power_state(session: Session, vm: Vm) -> PowerState | None:
    try:
        return inventory.power_state(session, ref_of(session, vm))
    except Gone:
        return None


def nics(session: Session, vm: Vm) -> list[Nic]:
    wanted = {
        vim.VirtualMachine: ("config.hardware.device",),
        vim.Network: ("name",),
        vim.dvs.DistributedVirtualPortgroup: ("key",),
    }
    walk = traverse(vim.VirtualMachine, "runtime.host", traverse(vim.HostSystem, "network"))
    with _registered(session, vm):
        found = properties.retrieve(session, properties.spec(wanted, [ref_of(session, vm)], walk))
    networks = [each for each in found if isinstance(each.ref, vim.Network)]
    names = {inventory.plain(each.get("name", "")) for each in networks}
    portgroups = {each.get("key"): inventory.plain(each.get("name", "")) for each in networks}
    cards = [device for device in _devices(found) if isinstance(device, vim.vm.device.VirtualEthernetCard)]
    return [
        Nic((card.macAddress or "").lower(), _network(card.backing, names, portgroups))
        for card in sorted(cards, key=lambda card: int(card.key))
    ]


def guest_addresses(session: Session, vm: Vm) -> list[tuple[str, str]]:
    """What VMware Tools say: (MAC, IPv4 address), in the order of the guest's cards."""
    with _registered(session, vm):
        found = properties.read(session, ref_of(session, vm), "guest.net")
    return [
        (card.macAddress.lower(), address)
        for card in found.get("guest.net", ()) or ()
        if card.macAddress
        for address in card.ipAddress or ()
        if "." in address
    ]


def disks(session: Session, vm: Vm) -> list[str]:
    with _registered(session, vm):
        found = [properties.read(session, ref_of(session, vm), "config.hardware.device")]
    return [str(disk.backing.fileName) for disk in _attached(found)]


def _attached(found: list[properties.Found]) -> list[Any]:
    """The disks that have a file, by controller and unit."""
    disks = [device for device in _devices(found) if isinstance(device, vim.vm.device.VirtualDisk)]
    disks.sort(key=lambda disk: (int(disk.controllerKey or 0), int(disk.unitNumber or 0)))
    return [disk for disk in disks if getattr(disk.backing, "fileName", None)]


def condition(session: Session, vm: Vm) -> Condition:
    with _registered(session, vm):
        found = properties.read(
            session,
            ref_of(session, vm),
            "config.hardware.device",
            "runtime.powerState",
            "runtime.question",
            "snapshot.rootSnapshotList",
        )
    devices = {int(device.key): device for device in _devices([found])}
    question = found.get("runtime.question")
    return Condition(
        power=inventory.power_of(found),
        disks=tuple(
            AttachedDisk(
                str(disk.backing.fileName),
                str(getattr(disk.backing, "diskMode", None) or "persistent"),
                _adapter(devices.get(int(disk.controllerKey or 0))),
            )
            for disk in _attached([found])
        ),
        snapshots=tuple(_names(found.get("snapshot.rootSnapshotList", ()))),
        question=_text(question) if question is not None else None,
    )


def _adapter(controller: Any) -> str:
    """A descriptor has no word for SAS, paravirtual SCSI or SATA: their disks are called lsilogic."""
    if isinstance(controller, vim.vm.device.VirtualIDEController):
        return "ide"
    return "buslogic" if isinstance(controller, vim.vm.device.VirtualBusLogicController) else "lsilogic"


def _names(snapshots: Iterable[Any]) -> Iterator[str]:
    for snapshot in snapshots:
        yield str(snapshot.name)
        yield from _names(snapshot.childSnapshotList or ())


def _text(question: Any) -> str:
    return " ".join(str(question.text).split())[:300]


def _devices(found: list[properties.Found]) -> list[Any]:
    return [device for each in found for device in each.get("config.hardware.device", ())]


def _network(backing: Any, names: set[str], portgroups: dict[Any, str]) -> str | None:
    """The network's name if the host has it."""
    if isinstance(backing, vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo):
        return portgroups.get(backing.port.portgroupKey)
    name = inventory.plain(str(getattr(backing, "deviceName", "")))
    return name if name in names else None


def _choice(session: Session, vm: Vm, question: Any, answer: str) -> str:
    """The key of `answer` ("moved" keeps the VM's identity, "copied" gives it a new one) to the question which of them
    the VM was; anything else a human must decide.
    """
    ids = {str(message.id) for message in question.message or ()}
    if _COPIED_OR_MOVED in ids or _COPIED_OR_MOVED in str(question.text):
        for option in question.choice.choiceInfo:
            if answer in f"{option.label} {option.summary}".lower():
                log.info("%s asks whether it was moved or copied: %s", vm.name, answer)
                return str(option.key)
    text = _text(question)
    raise ProvisioningError(
        "vsphere_fault",
        f"{vm.name} on {session.config.name} waits for an answer, give it in the vSphere client: {text}",
        detail={"fault": "question", "question": text, "messages": sorted(ids), "endpoint": session.config.name},
        host=str(HostKey(vm.endpoint, vm.host_moid)),
    )


@contextmanager
def _registered(session: Session, vm: Vm) -> Iterator[None]:
    try:
        yield
    except Gone as fault:
        raise ProvisioningError(
            "vm_not_found",
            f"{vm.name} is not registered on {session.config.name} any more: reload the computer",
            detail={"fault": "ManagedObjectNotFound", "endpoint": session.config.name},
        ) from fault
