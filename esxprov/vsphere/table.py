"""What an endpoint has, kept from two sources: its stream of updates, and polls that read everything. Pure.

Neither source is enough. Several properties are told late or never by the stream; a poll is old when it arrives. So a
poll replaces what differs, except what the stream has told since the poll began: if that is the older of the two, the
stream has more to say, and ends with the truth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from esxprov.model import Host, Vm
from esxprov.vsphere.api import vim
from esxprov.vsphere.inventory import Objects
from esxprov.vsphere.properties import Found, moid
from esxprov.vsphere.updates import Modify, Update, fold


@dataclass(eq=False, slots=True)
class Poll:
    """A poll under way, and what the stream has told meanwhile: properties of objects, and whole objects."""

    number: int
    properties: set[tuple[str, str]] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)

    def overtaken_by(self, update: Update) -> None:
        if isinstance(update, Modify):
            self.properties.update((moid(update.ref), path) for path in update.values)
        else:
            self.objects.add(moid(update.ref))


class Table:
    """One value per host and VM. A change costs as much as it changes."""

    def __init__(self, endpoint: str) -> None:
        self.has_gaps = False  # the stream told of an object that we do not know: a poll is due
        self._objects = Objects(endpoint)
        self._hosts: dict[str, Host] = {}
        self._vms: dict[str, Vm] = {}
        self._all_hosts: tuple[Host, ...] | None = ()  # None: to be made anew
        self._all_vms: tuple[Vm, ...] | None = ()
        self._polls: list[Poll] = []
        self._begun = 0
        self._answered = 0  # the number of the last poll that was taken over

    def hosts(self) -> tuple[Host, ...]:
        """The very same tuple until one of them changes."""
        if self._all_hosts is None:
            self._all_hosts = tuple(self._hosts.values())
        return self._all_hosts

    def vms(self) -> tuple[Vm, ...]:
        """The very same tuple until one of them changes."""
        if self._all_vms is None:
            self._all_vms = tuple(self._vms.values())
        return self._all_vms

    def fold(self, updates: Iterable[Update]) -> bool:
        """Take over what the stream tells. True if a value has changed."""
        touched: dict[str, Any] = {}
        for update in updates:
            touched[moid(update.ref)] = update.ref
            if not fold(self._objects.all, update):
                self.has_gaps = True
            for poll in self._polls:
                poll.overtaken_by(update)
        return self._publish(touched)

    def begin(self) -> Poll:
        """Before a poll asks; `end` it whatever becomes of it."""
        self._begun += 1
        poll = Poll(self._begun)
        self._polls.append(poll)
        return poll

    def end(self, poll: Poll) -> None:
        self._polls.remove(poll)

    def correct(self, poll: Poll, found: Iterable[Found]) -> bool:
        """Take over everything that the poll found. True if a value has changed."""
        if poll.number < self._answered:
            return False  # one that began later has answered
        self._answered = poll.number
        self.has_gaps = False
        touched: dict[str, Any] = {}
        known = self._objects.all
        read = {each.moid: each for each in found}
        for key in [key for key in known if key not in read and key not in poll.objects]:
            touched[key] = known.pop(key).ref
        for key, each in read.items():
            if key in poll.objects:
                continue
            before = known[key].properties if key in known else {}
            after = self._merged(poll, key, before, each.properties)
            if key not in known or before != after:
                known[key] = Found(each.ref, after)
                touched[key] = each.ref
        return self._publish(touched)

    @staticmethod
    def _merged(poll: Poll, key: str, told: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
        if not poll.properties:
            return read
        merged = {path: value for path, value in read.items() if (key, path) not in poll.properties}
        return merged | {path: value for path, value in told.items() if (key, path) in poll.properties}

    def _publish(self, touched: dict[str, Any]) -> bool:
        """Make anew the values of what was touched, and of what hangs on it. True if one has changed."""
        hosts = [key for key, ref in touched.items() if isinstance(ref, vim.HostSystem)]
        vms = [key for key, ref in touched.items() if isinstance(ref, vim.VirtualMachine)]
        if len(hosts) + len(vms) < len(touched):
            # A datastore, a network or a folder: any host may have a part in it.
            hosts = list(dict.fromkeys([*self._hosts, *hosts]))
        changed = False
        for values, keys, make in ((self._hosts, hosts, self._objects.host), (self._vms, vms, self._objects.vm)):
            for key in keys:
                found = self._objects.all.get(key)
                changed |= self._put(values, key, make(found) if found else None)
        return changed

    def _put(self, values: dict[str, Any], key: str, value: Host | Vm | None) -> bool:
        """True if that is news."""
        if values.get(key) == value:
            return False
        if value is None:
            del values[key]
        else:
            values[key] = value
        if values is self._hosts:
            self._all_hosts = None
        else:
            self._all_vms = None
        return True
