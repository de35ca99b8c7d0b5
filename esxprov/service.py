"""The service, and the tools of the command line: builds the parts, handles signals, decides nothing."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from types import FrameType

from bridge.amqp.thread import BrokerThread
from bridge.contract import PROGRESS_INTERVAL_S, Lane
from bridge.message import BrokerUnavailable
from bridge.topology import lane_queue, service_topology
from esxprov import owner, schema, systemd
from esxprov.broker import CONNECT_S, broker_parameters
from esxprov.clock import SystemClock
from esxprov.config import Config
from esxprov.database import Database, VclInventory
from esxprov.dispatch import Dispatcher, Limits
from esxprov.errors import DependencyUnavailable, ProvisioningError
from esxprov.handlers import CALLS
from esxprov.handlers.reap import reap
from esxprov.handlers.sweep import sweep
from esxprov.housekeeping import Housekeeping
from esxprov.journal import RENEW_S, Journal
from esxprov.lease_bus import on_bus
from esxprov.leases.source import Source
from esxprov.leases.sources import fresh_leases, watchers_of, watching
from esxprov.library.locks import ImageLocks
from esxprov.looks import Looks
from esxprov.machines import Machines
from esxprov.model import Pool, Profile
from esxprov.outbox import Lanes, Outbox
from esxprov.placement.claims import Claims
from esxprov.placement.placer import Placers
from esxprov.placement.quarantine import Quarantine
from esxprov.ports import Tools
from esxprov.reconciler import RECONCILE_S, Reconciler, Report
from esxprov.recovery import ADDRESS_S, Recovered, Recovery
from esxprov.vsphere import VSphere, Watches
from esxprov.web import WebServer

log = logging.getLogger(__name__)

RECOVER_S = 30
"""How often abandoned events, unsent replies and pending removals are looked for."""

RENEW_CLAIMS_S = 60
"""A fifth of a claim's lease."""

FORGET_S = 3600


_STARTING = "starting"
"""Why nothing is taken in yet."""


@dataclass(frozen=True, slots=True)
class ConfiguredPools:
    """The pools of esxprov.conf (ports.Pools)."""

    config: Config

    def of(self, profile: Profile) -> Pool:
        for pool in self.config.pools.values():
            if pool.profile == profile.name:
                return pool
        raise ProvisioningError(
            "invalid_event",
            f"no pool has the VM host profile {profile.name!r}: set 'profile = {profile.name}' in a [pool NAME] of "
            f"{self.config.path}",
        )

    def all(self) -> list[Pool]:
        return list(self.config.pools.values())


@contextmanager
def tools(config: Config) -> Iterator[Tools]:
    """The world, for one command of the command line."""
    database = Database(config.database)
    with watching(config.leases) as watchers:
        hypervisors = VSphere(config.endpoints)
        looks = Looks(hypervisors)
        try:
            yield _tools(config, database, Claims(database), hypervisors, looks, watchers)
        finally:
            looks.close()
            hypervisors.close()
            database.close()


def _tools(
    config: Config, database: Database, claims: Claims, hypervisors: VSphere, looks: Looks, sources: Sequence[Source]
) -> Tools:
    return Tools(
        hypervisors=hypervisors,
        looks=looks,
        pools=ConfiguredPools(config),
        claims=claims,
        quarantine=Quarantine(database),
        leases=fresh_leases(config.leases, sources),
        inventory=VclInventory(database),
        placers=Placers(),
        images=ImageLocks(database),
        machines=Machines(database),
    )


def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises ConfigurationError or DependencyUnavailable if it cannot even start."""
    _Service(config).run()


class _Service:
    """The parts of one service process and how they hang together."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._node = config.service.management_node
        self._ended = threading.Event()
        self._clock = SystemClock()
        self._database = Database(config.database)
        schema.check(self._database)
        self._journal = Journal(self._database, owner.myself())
        self._watches = Watches(config.endpoints)
        self._hypervisors = VSphere(config.endpoints, self._watches)
        self._watchers = watchers_of(config.leases)
        self._looks = Looks(self._hypervisors, watches=self._watches)
        self._claims = Claims(self._database, self._journal.owner)
        self._broker = BrokerThread(broker_parameters(config.broker), on_up=lambda: self._errands.soon("send replies"))
        sources: list[Source] = [*self._watchers]
        if config.leases.bus:
            sources.append(on_bus(self._broker, self._node, config.leases))
        self._machines = Machines(self._database)
        self._tools = _tools(config, self._database, self._claims, self._hypervisors, self._looks, sources)
        self._recovery = Recovery(self._tools, self._claims, self._journal.busy_computers, self._ended.is_set)
        self._reconciler = Reconciler(self._claims, self._looks, config.pools.values(), self._recovery.run)
        # Signs of life must not wait for a silent broker, nor that for a silent host: each has a thread of its own.
        self._house = Housekeeping(self._clock)
        self._errands = Housekeeping(self._clock, "errands")
        self._sweeper = Housekeeping(self._clock, "sweeper")
        self._web = WebServer(config.http, self._tools, self._clock) if config.http else None
        self._lanes = Lanes(self._broker, self._node)
        self._outbox = Outbox(self._broker, self._journal, self._clock.now)
        about_us = {"version": metadata.version("esxprov"), "node": self._node, "pid": os.getpid()}
        self._dispatcher = Dispatcher(
            journal=self._journal,
            handlers=CALLS,
            tools=self._tools,
            outbox=self._outbox,
            lanes=self._lanes,
            clock=self._clock,
            limits=Limits(config.service.workers_slow, config.service.workers_fast, config.publishers),
            about_us=about_us,
        )

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        chores = self._house
        chores.every(RENEW_S, "renew ownership", self._dispatcher.renew)
        chores.every(RENEW_CLAIMS_S, "renew claims", lambda: self._claims.renew(self._dispatcher.at_work()))
        chores.every(RECOVER_S, "bury the dead", lambda: self._journal.give_up(owner.is_known_dead))
        chores.every(RECOVER_S, "recover", self._dispatcher.recover)
        chores.every(1, "take in again", self._dispatcher.take_in_again)
        chores.every(FORGET_S, "forget", lambda: self._journal.forget(self._config.service.journal_days))
        chores.every(FORGET_S, "forget released claims", self._claims.forget)
        chores.every(FORGET_S, "forget machines", self._machines.forget)
        self._errands.every(RECOVER_S, "send replies", self._outbox.flush, first_s=0)
        self._errands.every(PROGRESS_INTERVAL_S / 4, "break silence", self._dispatcher.break_silence)
        self._sweeper.every(RECOVER_S * 2, "remove what is to be destroyed", self._sweep, first_s=0)
        self._sweeper.every(RECOVER_S * 2, "remove unfinished images", lambda: reap(self._tools), first_s=0)
        self._sweeper.every(RECONCILE_S, "reconcile claims", self._reconciler.run, first_s=0)
        if self._web:
            self._web.start()
        for watcher in self._watchers:
            watcher.start()
        self._watches.start()
        self._start_broker()
        # What an earlier service left comes first: the queue would fill all workers.
        self._journal.give_up(owner.is_known_dead)
        self._dispatcher.recover()
        for lane in Lane:
            self._lanes.resume(lane, _STARTING)
        self._house.start()
        self._errands.start()
        self._sweeper.start()
        # What is here now stays: pyVmomi's classes alone are many, and need not be looked through at each collection.
        gc.freeze()
        systemd.notify("READY=1")
        log.info("esxprov %s serves node %s", metadata.version("esxprov"), self._node)
        self._ended.wait()
        self._stop()

    def _start_broker(self) -> None:
        self._broker.declare(service_topology(self._node, self._config.broker.queue_type))
        self._broker.consume(lane_queue(self._node, Lane.SLOW), self._dispatcher.deliver_slow, prefetch=1)
        fast = 2 * self._config.service.workers_fast
        self._broker.consume(lane_queue(self._node, Lane.FAST), self._dispatcher.deliver_fast, prefetch=fast)
        for lane in Lane:
            self._lanes.pause(lane, _STARTING)
        self._broker.start()
        try:
            self._broker.wait_until_connected(CONNECT_S)
        except BrokerUnavailable as error:
            self._broker.stop()
            raise DependencyUnavailable(str(error)) from error

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        log.info("%s: finishing the steps under way", signal.Signals(number).name)
        self._ended.set()

    def _stop(self) -> None:
        """Take nothing more, let every job reach its next border, keep ownership alive until the last of them has."""
        systemd.notify("STOPPING=1")
        for lane in Lane:
            self._broker.pause(lane_queue(self._node, lane))
        self._clock.end()
        if self._web:
            self._web.stop()
        self._dispatcher.stop()
        self._house.stop()
        self._errands.stop()
        self._sweeper.stop()
        self._broker.stop()
        for watcher in self._watchers:
            watcher.stop()
        self._watches.stop()
        self._looks.close()
        self._hypervisors.close()
        self._database.close()
        log.info("ended")

    def _sweep(self) -> None:
        for pool in self._config.pools.values():
            sweep(self._tools, pool)


def reconcile(config: Config, *, dry_run: bool, force: bool) -> Report:
    """One look at all endpoints and what follows from it, for `esxprov claims reconcile`."""
    with _by_hand(config) as (claims, looks, recovery):
        put_right = partial(recovery.run, dry_run=True)
        return Reconciler(claims, looks, config.pools.values(), put_right).run(dry_run=dry_run, force=force)


def recover(config: Config, *, just_booted: Collection[str], dry_run: bool) -> tuple[Recovered, tuple[str, ...]]:
    """What becomes of the VMs of hosts that came back, and which endpoints did not answer; for `esxprov hosts
    recover`. Raises ProvisioningError for a host in `just_booted` that nobody has.
    """
    endpoints = sorted({name for pool in config.pools.values() for name in pool.endpoints})
    with _by_hand(config) as (_, looks, recovery):
        seen = looks.at(endpoints)
        names = sorted({host.name for look in seen for host in look.hosts})
        for name in just_booted:
            if name not in names:
                raise ProvisioningError(
                    "invalid_event", f"no endpoint that answers has a host {name!r}; there are: {', '.join(names)}"
                )
        silent = tuple(look.endpoint for look in seen if look.problem is not None)
        return recovery.run(seen, just_booted=just_booted, dry_run=dry_run), silent


@contextmanager
def _by_hand(config: Config) -> Iterator[tuple[Claims, Looks, Recovery]]:
    """The parts of the sweeper, for one command of the command line."""
    with tools(config) as made:
        assert isinstance(made.claims, Claims), "those of the database"
        assert isinstance(made.looks, Looks), "those of the endpoints"
        database = Database(config.database)
        try:
            busy = Journal(database, owner.myself()).busy_computers
            yield made.claims, made.looks, Recovery(made, made.claims, busy, wait_s=ADDRESS_S)
        finally:
            database.close()
