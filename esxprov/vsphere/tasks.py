"""Waiting for tasks.

The server's WaitForUpdatesEx only wakes us; the state is then read. So a task that is done already costs one round
trip, there is one place that looks at a task, and an update that got lost costs a delay and no hang. Only four
properties of `info` are read: pyVmomi raises TypeError on the whole of it for file and disk tasks, whose entity is no
ManagedEntity.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from esxprov.errors import ProvisioningError
from esxprov.vsphere import faults, properties
from esxprov.vsphere.api import vim, vmodl
from esxprov.vsphere.session import Session

log = logging.getLogger(__name__)

NAP_S = 3
"""The longest wait between two looks: how late a cancel or a deadline may be noticed."""

LIMIT_S = 300
"""For tasks that nobody watches. Copies have a watcher, whose deadline counts, and take as long as they take."""

CANCELLED_S = 15
"""How long a cancelled task is given to let go of its files."""

Progress = Callable[[int], None]


def run(
    session: Session,
    begin: Callable[[], Any],
    *,
    progress: Progress | None = None,
    beside: tuple[Any, str] | None = None,
    seen: Callable[[Any], None] | None = None,
) -> Any:
    """Start a task and wait for it: returns its result, raises its fault.

    `progress` is called with a percentage at least every few seconds. `beside` is another object's property to watch
    meanwhile; its value goes to `seen` as soon as it is set. What either of them raises cancels the task, and is
    raised.
    """
    watch = _Watch(session, session.call(begin), beside)
    try:
        return _wait(watch, progress, seen)
    finally:
        watch.end()


def _wait(watch: _Watch, progress: Progress | None, seen: Callable[[Any], None] | None) -> Any:
    until = time.monotonic() + LIMIT_S
    while True:
        info, value = watch.look()
        state = info.get("info.state")
        if state == "success":
            return info.get("info.result")
        if state == "error":
            raise info.get("info.error") or vmodl.fault.SystemError(reason="a task failed without saying why")
        try:
            if seen is not None and value is not None:
                seen(value)
            if progress is not None:
                progress(int(info.get("info.progress", 0)))
            elif time.monotonic() > until:
                raise _overdue(watch.session)
        except BaseException:
            _cancel(watch)
            raise
        watch.nap()


class _Watch:
    """The task, and what is watched beside it; at the server a filter, made when there is something to wait for."""

    def __init__(self, session: Session, task: Any, beside: tuple[Any, str] | None) -> None:
        self.session = session
        self.task = task
        wanted: dict[Any, list[str]] = {vim.Task: ["info.state", "info.error", "info.result", "info.progress"]}
        objects = [task]
        if beside is not None:
            ref, path = beside
            wanted[type(ref)] = [path]
            objects.append(ref)
        self._spec = properties.spec(wanted, objects)
        self._path = beside[1] if beside else None
        self._filter: Any = None
        self._login = 0
        self._version = ""
        # The server holds its answer back for this long, so it must be well within the socket's timeout.
        self._options = vmodl.query.PropertyCollector.WaitOptions(
            maxWaitSeconds=max(1, min(NAP_S, int(session.config.timeout_s // 2)))
        )

    def look(self) -> tuple[properties.Found, Any]:
        """The task's info, and the value beside it."""
        info = properties.Found(self.task, {})
        value = None
        for found in properties.retrieve(self.session, self._spec):
            if isinstance(found.ref, vim.Task):
                info = found
            else:
                value = found.get(self._path or "")
        return info, value

    def nap(self) -> None:
        """Return when something changed, or after a few seconds."""
        self.session.call(self._nap, repeatable=True)

    def _nap(self) -> None:
        collector = self.session.waiter
        if self._filter is None or self._login != self.session.logins:
            self._filter = collector.CreateFilter(self._spec, False)
            self._login = self.session.logins
            self._version = ""  # answered at once with the state as it is: changes are counted from here
        updates = collector.WaitForUpdatesEx(self._version, self._options)
        if updates is not None:
            self._version = updates.version

    def end(self) -> None:
        if self._filter is None or self._login != self.session.logins:
            return
        try:
            self._filter.DestroyPropertyFilter()
        except faults.FOREIGN as error:
            log.debug("a filter on %s could not be removed: %s", self.session.config.name, error)


def _cancel(watch: _Watch) -> None:
    """Cancel, and wait until the task has let go: a disk that is still written cannot be deleted."""
    name = watch.session.config.name
    try:
        watch.session.call(watch.task.CancelTask)
        until = time.monotonic() + CANCELLED_S
        while watch.look()[0].get("info.state") in ("queued", "running"):
            if time.monotonic() > until:
                log.warning("a cancelled task on %s still runs after %d s", name, CANCELLED_S)
                return
            watch.nap()
    except faults.FOREIGN as error:
        log.warning("a task on %s cannot be cancelled and runs on: %s", name, faults.name_of(error))


def _overdue(session: Session) -> ProvisioningError:
    return ProvisioningError(
        "vsphere_fault",
        f"a task on {session.config.name} was not done after {LIMIT_S} s: see the endpoint's own task list",
        retryable=True,
        detail={"endpoint": session.config.name},
    )
