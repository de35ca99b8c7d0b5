"""Looking through a pool's golden library, and taking out of it what nobody needs.

Who needs an image is asked of all endpoints of all pools: pools may share a datastore.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from esxprov import annotation
from esxprov import layout as layouts
from esxprov.errors import ProvisioningError
from esxprov.handlers import vm
from esxprov.handlers.reap import reap
from esxprov.handlers.world import profile_of
from esxprov.layout import Layout
from esxprov.library import manifest as manifests
from esxprov.library.shelf import Shelf, Shelved, User, keepers, revision_of
from esxprov.model import ImageWork, Pool, Revision
from esxprov.ports import Hypervisor, Tools

_MOST_LAYERS = 32
"""More redo disks than vSphere ever makes."""

_DELETION_S = 600
"""So long a deletion may take; after that the service removes what is left of it."""

_LINE = re.IGNORECASE | re.MULTILINE
_VMX_DISK = re.compile(r'^\s*(?:scsi|sata|ide|nvme)\d+:\d+\.filename\s*=\s*"([^"\r\n]+\.vmdk)"', _LINE)
_ANNOTATION = re.compile(r'^\s*annotation\s*=\s*"([^"\r\n]*)".*$', _LINE)

NOT_REGISTERED = "not registered"


def shelve(tools: Tools, pool: Pool, only: str | None = None) -> Shelf:
    """The library of a pool, or one directory of it. Raises `host_unavailable` if no endpoint of the pool can look."""
    layout = layouts.of(pool, profile_of(tools, pool))
    root = f"[{layout.image_datastore}] {layout.golden}"
    images = vm.ask_endpoints(tools, pool.endpoints, lambda hypervisor: list(_images(hypervisor, root, only)))
    users, blind = _users(tools, layout.golden)
    revisions = tools.inventory.revisions()
    works = tools.images.of_datastore(layout.image_datastore)
    ended = {work.event_id for work in tools.images.stale()}
    return Shelf(
        pool.name,
        root,
        tuple(_known(image, revisions, works, ended, users) for image in images or ()),
        tuple(blind),
    )


def remove(tools: Tools, pool: Pool, name: str, event_id: str) -> None:
    """Delete an orphan of a pool's library. `event_id` is this deletion's own.

    The image is locked, looked at again, renamed to a hidden directory and deleted there: whatever happens in between,
    it is whole or gone, and the service removes the rest. A load that has found the image just before fails, and is
    told that it is missing. Raises `image_not_found`, and `conflict` with the reasons for which it must stay.
    """
    shelf = shelve(tools, pool, name)
    found = shelf.named(name)
    if found is None:
        raise ProvisioningError("image_not_found", f"there is no {shelf.directory}/{name}")
    _refuse(found, shelf)
    if found.is_hidden:
        _remove_unfinished(tools, pool, found)
        return
    layout = layouts.of(pool, profile_of(tools, pool))
    path = f"{shelf.directory}/.{name}.deleted-{hashlib.sha256(event_id.encode()).hexdigest()[:8]}"
    work = ImageWork(layout.image_datastore, name, event_id, "delete", pool.name, path)
    busy = tools.images.take(work, held_s=_DELETION_S)
    if busy is not None:
        raise ProvisioningError("conflict", f"event {busy.work.event_id} works on {name}: try again when it has ended")
    try:
        again = shelve(tools, pool, name)
        image = again.named(name)
        if image is None:
            raise ProvisioningError("image_not_found", f"there is no {shelf.directory}/{name} any more")
        _refuse(replace(image, work=None), again)  # its work is ours
    except ProvisioningError:
        tools.images.done(work)
        raise
    # From here on the row remembers what is to be removed, if not by us.
    vm.ask_endpoints(tools, pool.endpoints, partial(_move, source=image.directory, target=path))
    vm.ask_endpoints(tools, pool.endpoints, partial(_delete, path=path))
    tools.images.done(work)


def _refuse(image: Shelved, shelf: Shelf) -> None:
    reasons = keepers(image, shelf.blind)
    if reasons:
        raise ProvisioningError("conflict", f"{image.name} stays: {'; '.join(reasons)}", detail={"reasons": reasons})


def _remove_unfinished(tools: Tools, pool: Pool, image: Shelved) -> None:
    """Nobody writes there any more: whoever did has ended, or is remembered by nobody."""
    if image.work is not None:
        reap(tools)
    vm.ask_endpoints(tools, pool.endpoints, partial(_delete, path=image.directory))


def _move(hypervisor: Hypervisor, *, source: str, target: str) -> bool:
    hypervisor.move_directory(source, target)
    return True


def _delete(hypervisor: Hypervisor, *, path: str) -> bool:
    """Nothing in the library is deleted under a name that an image can have."""
    assert path.rpartition("/")[2].startswith("."), path
    hypervisor.delete(path)
    return True


# --- what lies there -------------------------------------------------------------------------------------------------


def _images(hypervisor: Hypervisor, root: str, only: str | None) -> Iterator[Shelved]:
    for entry in hypervisor.list_directory(root) or ():
        if entry.is_directory and only in (None, entry.name):
            yield _image(hypervisor, f"{root}/{entry.name}", entry.name)


def _image(hypervisor: Hypervisor, directory: str, name: str) -> Shelved:
    files = tuple(hypervisor.list_directory(directory) or ())
    names = {entry.name for entry in files}
    own = f"{name}.vmdk" if not name.startswith(".") else next((one for one in sorted(names) if _is_disk(one)), "")
    path = f"{directory}/{own}"
    disk, damage, size_mb, checksum = None, "", None, ""
    if own in names:
        try:
            disk = hypervisor.disk(path)
            size_mb = hypervisor.allocated_mb(path)
        except ProvisioningError as error:
            if error.code != "vsphere_fault":
                raise
            damage = error.message
    has_manifest = manifests.FILE in names
    manifest = manifests.read(hypervisor.read_file(f"{directory}/{manifests.FILE}")) if has_manifest else None
    if disk and manifest and manifest.descriptor_sha256:  # else it may be a file of many GB
        checksum = hashlib.sha256(hypervisor.read_file(path) or b"").hexdigest()
    return Shelved(
        name=name,
        directory=directory,
        files=files,
        disk=disk,
        damage=damage,
        size_mb=size_mb,
        manifest=manifest,
        descriptor_sha256=checksum,
    )


def _is_disk(name: str) -> bool:
    return name.endswith(".vmdk") and not re.search(r"-(flat|delta|sesparse|ctk|s\d+|f\d+)\.vmdk$", name)


def _known(
    image: Shelved, revisions: Sequence[Revision], works: Sequence[ImageWork], ended: set[str], users: Sequence[User]
) -> Shelved:
    """With what else is known of it."""
    if image.is_hidden:
        work = next((one for one in works if one.path == image.directory), None)
        return replace(image, work=work, is_live=work is not None and work.event_id not in ended)
    work = next((one for one in works if one.image == image.name), None)
    return replace(
        image,
        revision=revision_of(one for one in revisions if one.imagename == image.name),
        work=work,
        is_live=work is not None and work.event_id not in ended,
        users=tuple(user for user in users if user.image == image.name),
    )


# --- who needs it ----------------------------------------------------------------------------------------------------


def _users(tools: Tools, golden: str) -> tuple[list[User], list[str]]:
    """The VMs of all endpoints that need images, and of what that could not be told."""
    endpoints = list(dict.fromkeys(name for pool in tools.pools.all() for name in pool.endpoints))
    users: list[User] = []
    blind: list[str] = []
    registered: set[str] = set()
    for name, answer in tools.looks.ask(endpoints, lambda hypervisor: _users_on(hypervisor, golden)):
        if isinstance(answer, ProvisioningError):
            blind.append(f"{name} cannot be asked ({answer.message})")
            continue
        found, unread, paths = answer
        users += found
        blind += unread
        registered |= paths
    for pool in tools.pools.all():
        try:
            users += _unregistered(tools, pool, golden, registered)
        except ProvisioningError as error:
            blind.append(f"the directories of VMs of pool {pool.name} cannot be read ({error.message})")
    return list(dict.fromkeys(users)), blind


def _users_on(hypervisor: Hypervisor, golden: str) -> tuple[list[User], list[str], set[str]]:
    """(users, VMs that cannot be read, where in their datastores all VMs lie)."""
    users: list[User] = []
    unread: list[str] = []
    paths: set[str] = set()
    for machine in hypervisor.vms():
        if not machine.vmx_path:
            unread.append(f"VM {machine.name} on {hypervisor.name} cannot be read")
            continue
        paths.add(_within(machine.vmx_path))
        owner = annotation.read(machine.annotation)
        needed = [User(machine.name, hypervisor.name, owner.image)] if owner else []
        try:
            disks = hypervisor.disks(machine)
        except ProvisioningError as error:
            if error.code != "vm_not_found":
                raise
            continue  # it went meanwhile
        for path in disks:
            needed += _over(hypervisor, path, golden, machine.name, hypervisor.name)
        users += _deepest(needed)
    return users, unread, paths


def _unregistered(tools: Tools, pool: Pool, golden: str, registered: set[str]) -> list[User]:
    """VMs that only have their directories: of a host that has forgotten them, or half made."""
    profile = tools.inventory.profile(pool.profile)
    if profile is None:
        return []  # VCL can have loaded none
    layout = layouts.of(pool, profile)
    found = vm.ask_endpoints(
        tools, pool.endpoints, lambda hypervisor: list(_in_directories(hypervisor, layout, golden, registered))
    )
    return found or []


def _in_directories(hypervisor: Hypervisor, layout: Layout, golden: str, registered: set[str]) -> Iterator[User]:
    root = f"[{layout.vm_datastore}] {layout.inuse}"
    for entry in hypervisor.list_directory(root) or ():
        path = f"{root}/{entry.name}/{entry.name}.vmx"
        if not entry.is_directory or _within(path) in registered:
            continue
        text = (hypervisor.read_file(path) or b"").decode("utf-8", "replace")
        owner = annotation.read(_ANNOTATION.sub(r"\1", text))
        needed = [User(entry.name, NOT_REGISTERED, owner.image)] if owner else []
        for name in _VMX_DISK.findall(text):
            place = name if name.startswith(("/", "[")) else f"{root}/{entry.name}/{name}"
            needed += _over(hypervisor, place, golden, entry.name, NOT_REGISTERED)
        yield from _deepest(needed)


def _over(hypervisor: Hypervisor, path: str, golden: str, name: str, where: str) -> Iterator[User]:
    """The VM as a user of the image that its disk is based on, if it is one.

    The redo disks of a VM lie in one directory; only the lowest names another, perhaps by a volume's uuid.
    """
    redo_mb = 0
    for depth in range(_MOST_LAYERS):
        image = _image_at(path, golden)
        if image is not None:
            yield User(name, where, image, depth, redo_mb)
            return
        disk = hypervisor.disk(path) if path.startswith("[") else None
        if disk is None or disk.parent is None:
            return
        redo_mb += hypervisor.allocated_mb(path) or 0
        parent = disk.parent
        beside = f"{path.rpartition('/')[0]}/{parent.rpartition('/')[2]}"
        path = parent if _image_at(parent, golden) is not None else beside


def _image_at(path: str, golden: str) -> str | None:
    """The image whose directory a path lies in, whatever its volume is called: too many users do no harm."""
    rest = _within(path)
    if not rest.startswith(f"{golden}/"):
        return None
    name, slash, _ = rest.removeprefix(f"{golden}/").partition("/")
    return name if slash else None


def _within(path: str) -> str:
    """A path within its datastore, of `[nfs1] golden/x` or `/vmfs/volumes/nfs1/golden/x`."""
    if path.startswith("["):
        return path.partition("] ")[2]
    return path.partition("/vmfs/volumes/")[2].partition("/")[2]


def _deepest(needed: Iterable[User]) -> list[User]:
    """One user for each image: that a VM was made of it is less than that it lies on it."""
    best: dict[str, User] = {}
    for user in needed:
        if user.image not in best or user.chain_depth > best[user.image].chain_depth:
            best[user.image] = user
    return list(best.values())
