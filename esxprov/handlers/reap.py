"""Unfinished images that nobody will finish: removed, with the lock of whoever made them."""

from __future__ import annotations

import logging
import re

from esxprov.errors import ProvisioningError
from esxprov.handlers import vm
from esxprov.model import ImageWork, Pool
from esxprov.ports import Busy, Hypervisor, Tools

log = logging.getLogger(__name__)

_HIDDEN = re.compile(r"\[[^\]/]+\] .+/\.[^/]+\Z")


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
            _of_any(tools, pool, work)
        except ProvisioningError as error:
            log.log(
                logging.DEBUG if error.code in vm.CANNOT_BE_ASKED else logging.WARNING, "%s stays: %s", work.path, error
            )
            continue
        log.info("removed %s, which event %s left", work.path, work.event_id)
        done += 1
    return done


def _of_any(tools: Tools, pool: Pool, work: ImageWork) -> None:
    def remove(hypervisor: Hypervisor) -> bool:
        _remove(tools, hypervisor, work)
        return True

    vm.ask_endpoints(tools, pool.endpoints, remove)


def _remove(tools: Tools, hypervisor: Hypervisor, work: ImageWork) -> None:
    """Nothing but what its name marks as unfinished: a row that somebody wrote by hand must not cost an image."""
    if not _HIDDEN.match(work.path) or ".." in work.path:
        raise ProvisioningError(
            "internal",
            f"{work.path} is no unfinished image: delete the esxprov_image_work row of event {work.event_id}",
        )
    hypervisor.delete(work.path)
    tools.images.done(work)
