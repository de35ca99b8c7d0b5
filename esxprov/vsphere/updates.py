"""The server's stream of changes to everything that an endpoint has.

One filter on a property collector of its own. Both live in a session and die with it, or with its connection to the
collector; whatever this raises, `begin` starts anew with a whole answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from esxprov.vsphere import inventory
from esxprov.vsphere.api import vim, vmodl
from esxprov.vsphere.properties import Found, moid
from esxprov.vsphere.session import DROPPED, Session

LOST = (
    vim.fault.NotAuthenticated,
    vmodl.query.InvalidCollectorVersion,
    vmodl.fault.ManagedObjectNotFound,
    *DROPPED,
)
"""The stream has ended, but nothing says that the endpoint is not well: begin anew at once."""


@dataclass(frozen=True, slots=True)
class Enter:
    """An object is there (new, or told anew) and has these properties."""

    ref: Any
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Modify:
    """Properties of an object have changed; None: it is unset now, or cannot be read."""

    ref: Any
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Leave:
    """An object is gone, or cannot be reached any more."""

    ref: Any


Update = Enter | Modify | Leave


class Updates:
    """Belongs to the thread of its session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._collector: Any = None
        self._version = ""

    def begin(self) -> list[Found]:
        """Everything as it is now; `next` tells what has changed since."""
        return self._session.call(self._begin)

    def next(self, wait_s: int) -> list[Update]:
        """What has changed, as soon as something has; empty after `wait_s`, which proves that the endpoint is alive.

        `wait_s` must be well within the endpoint's time-out.
        """
        updates: list[Update] = []
        options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=wait_s)
        while True:
            told = self._collector.WaitForUpdatesEx(self._version, options)
            if told is None:
                return updates
            updates.extend(_updates(told))
            self._version = told.version
            if not told.truncated:
                return updates

    def _begin(self) -> list[Found]:
        if self._collector is not None:
            # The login may well be alive, and a server computes what a forgotten filter would tell.
            with suppress(vmodl.MethodFault):
                self._collector.DestroyPropertyCollector()
        self._collector = self._session.content.propertyCollector.CreatePropertyCollector()
        # Whole properties only: a change of one element would need the list that it is an element of.
        self._collector.CreateFilter(inventory.everything_of(self._session), False)
        self._version = ""
        found: dict[str, Found] = {}
        for update in self.next(1):
            fold(found, update)
        if not found:
            raise vim.fault.NotAuthenticated()  # how ESXi answers an expired session: no fault, and nothing in it
        return list(found.values())


def fold(objects: dict[str, Found], update: Update) -> bool:
    """Do to the objects, by their moid, what the update says. False if it is about one that is not known."""
    key = moid(update.ref)
    if isinstance(update, Leave):
        objects.pop(key, None)
        return True
    known = objects.get(key)
    if isinstance(update, Modify) and known is None:
        return False
    before = known.properties if isinstance(update, Modify) and known else {}
    after = {path: value for path, value in {**before, **update.values}.items() if value is not None}
    objects[key] = Found(update.ref, after)
    return True


def _updates(told: Any) -> Iterator[Update]:
    """The updates of an UpdateSet, in its order."""
    for of_filter in told.filterSet or ():
        for each in of_filter.objectSet or ():
            if each.kind == "leave":
                yield Leave(each.obj)
                continue
            kind = Enter if each.kind == "enter" else Modify
            yield kind(each.obj, {**_assigned(each.changeSet or ()), **_missing(each.missingSet or ())})
        for each in of_filter.missingSet or ():
            yield Leave(each.obj)


def _assigned(changes: Iterable[Any]) -> dict[str, Any]:
    return {change.name: None if change.op in ("remove", "indirectRemove") else change.val for change in changes}


def _missing(properties: Iterable[Any]) -> dict[str, Any]:
    for missing in properties:
        if isinstance(missing.fault, vim.fault.NotAuthenticated):
            raise missing.fault
    return {missing.path: None for missing in properties}
