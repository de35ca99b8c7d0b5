"""Unfinished images that nobody will finish: removed, with the lock of whoever made them."""

from __future__ import annotations

import logging
import re

from esxprov.errors import ProvisioningError
from esxprov.handlers import vm
from esxprov.model import ImageWork, Pool
from esxprov.ports import Busy, Hypervisor, Tools

log = logging.getLogger(__name__)

_HIDDEN = re.compile(r"(?P<parent>\[[^\]/]+\] .+)/(?P<name>\.[^/]+)\Z")
_OF_EVENT = re.compile(r"(?P<stem>\..+\.[0-9a-f]{8})-(?P<epoch>\d{1,9})\Z")
"""The name of an event's directory; see Layout.unfinished_image_directory."""


def hold(tools: Tools, hypervisor: Hypervisor, work: ImageWork) -> Busy | None:
    """The lock for `work`; what an event that has ended left in it is removed before. Otherwise who has it."""
    busy = tools.images.take(work)
    if busy is None or not busy.has_ended:
        return busy
    _remove(tools, hypervisor, busy.work)
    return tools.images.take(work)


def reap(tools: Tools) -> int:
    """Remove what nobody will finish; returns how much of it is gone now. What cannot be removed stays for the next
    time: its host is silent, or an orphaned copy still writes it.
    """
    done = 0
    pools = {pool.name: pool for pool in tools.pools.all()}
    for work in tools.images.stale():
        pool = pools.get(work.pool)
        if pool is None:
            log.warning("%s stays: there is no pool %s any more, whose hosts could remove it", work.path, work.pool)
            continue
        try:
            discard(tools, pool, work)
        except ProvisioningError as error:
            log.log(
                logging.DEBUG if error.code in vm.CANNOT_BE_ASKED else logging.WARNING, "%s stays: %s", work.path, error
            )
            continue
        log.info("removed %s, which event %s left", work.path, work.event_id)
        done += 1
    return done


def discard(tools: Tools, pool: Pool, work: ImageWork) -> None:
    """Remove what an event has prepared, by any host of its pool that answers, and give its lock back."""

    def remove(hypervisor: Hypervisor) -> bool:
        _remove(tools, hypervisor, work)
        return True

    vm.ask_endpoints(tools, pool.endpoints, remove)


def clear(hypervisor: Hypervisor, work: ImageWork, *, later: bool = False) -> None:
    """Remove what the event has prepared in `work.path`, or in that of a service which had it before. With `later` in
    that of one which has taken it over, too: not for who may have been overtaken.

    Nothing but what its name marks as unfinished: a row that somebody wrote by hand must not cost an image.
    """
    hidden = _HIDDEN.match(work.path)
    if not hidden or ".." in work.path:
        raise ProvisioningError(
            "internal",
            f"{work.path} is no unfinished image: delete the esxprov_image_work row of event {work.event_id}",
        )
    name = _OF_EVENT.match(hidden["name"])
    if name is None:
        hypervisor.delete(work.path)
        return
    for entry in hypervisor.list_directory(hidden["parent"]) or ():
        found = _OF_EVENT.match(entry.name)
        if found and found["stem"] == name["stem"] and (later or int(found["epoch"]) <= int(name["epoch"])):
            hypervisor.delete(f"{hidden['parent']}/{entry.name}")


def _remove(tools: Tools, hypervisor: Hypervisor, work: ImageWork) -> None:
    clear(hypervisor, work, later=True)
    tools.images.done(work)
