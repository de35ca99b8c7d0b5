"""Bringing VCL's rows to what a pool needs: the hypervisors are asked, a plan is made, and done in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from esxprov import annotation
from esxprov.database import Cursor, Database
from esxprov.errors import ConfigurationError, ProvisioningError
from esxprov.handlers.survey import survey
from esxprov.model import CatalogueImage, Pool
from esxprov.placement.snapshot import Rules
from esxprov.ports import Hypervisor, Tools
from esxprov.slots import adopt, reach, rows
from esxprov.slots.adopt import Candidate, GivenBack, OldVms
from esxprov.slots.names import numbered
from esxprov.slots.plan import Change, Found, HostRecord, Kind, Plan, Wanted, Words, plan_of, removal_of
from esxprov.slots.size import HostSize, largest_shape, most_slots


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was planned for a pool, or done; `late` are changes that were not, as somebody took the slot meanwhile.
    `silent` are endpoints whose hosts count as they were when last seen.
    """

    plan: Plan
    late: tuple[Change, ...]
    warnings: tuple[reach.Obstacle, ...]
    silent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune` did, or would do, for a pool."""

    pool: str
    changes: tuple[Change, ...]
    hosts: tuple[HostRecord, ...]


@dataclass(frozen=True, slots=True)
class _Sight:
    """What the hypervisors and VCL's images say a pool is to have."""

    hosts: tuple[HostSize, ...]
    images: tuple[CatalogueImage, ...]
    silent: tuple[str, ...]


class Slots:
    """The slots of the configured pools."""

    def __init__(self, database: Database, tools: Tools, pools: Iterable[Pool]) -> None:
        self._database = database
        self._tools = tools
        self._pools = {pool.name: pool for pool in pools if pool.slots is not None}

    def named(self, name: str | None) -> Sequence[Pool]:
        """The pool of that name, or all whose slots are ours. Raises ConfigurationError if there is none."""
        if name is not None and name not in self._pools:
            raise ConfigurationError(f"there is no section [slots {name}]: write one, with names and macs")
        if not self._pools:
            raise ConfigurationError("no pool's slots are ours: write a section [slots POOL], with names and macs")
        return [self._pools[name]] if name is not None else list(self._pools.values())

    def plan(self, pool: Pool) -> Outcome:
        """What is to be done. Changes nothing."""
        sight = self._look(pool)
        return self._database.run(lambda cursor: self._outcome(cursor, pool, sight, does=False))

    def sync(self, pool: Pool) -> Outcome:
        """Do it, in one transaction. If its end is not known, it can be run again: it does what is left."""
        sight = self._look(pool)
        self._database.run(lambda cursor: rows.make_turn(cursor, pool.name))
        return self._database.run(lambda cursor: self._outcome(cursor, pool, sight, does=True))

    def to_prune(self, name: str | None) -> Sequence[str]:
        """Names of the pools whose slots `prune` looks at: that one, or all, also those that are configured no more."""
        known = self._database.run(rows.pools)
        if name is None:
            return sorted({*self._pools, *known})
        if name not in known:
            self.named(name)
        return [name]

    def prune(self, name: str, *, dry_run: bool = False) -> Pruned:
        """Remove slots of which there are too many (all, if the pool is configured no more), and hosts that the pool
        has no more. Slots go in two turns; see `removal_of`.
        """
        pool = self._pools.get(name)
        sight = self._look(pool) if pool else None
        if not dry_run:
            self._database.run(lambda cursor: rows.make_turn(cursor, name))

        def work(cursor: Cursor) -> Pruned:
            if not dry_run:
                rows.lock(cursor, name)
            found = rows.read(cursor)
            hosts = [one for one in found.hosts if one.pool == name and one.computer_made]
            if pool is None or sight is None:
                slots = removal_of(found, None, name)
                hosts.sort(key=lambda host: host.is_pool)
            else:
                slots = removal_of(found, self._plan(cursor, found, pool, sight)[0], name)
                there = {host.name for host in sight.hosts}
                hosts = [one for one in hosts if not one.is_pool and one.name not in there]
            if dry_run:
                return Pruned(name, slots, tuple(hosts))
            return Pruned(
                name,
                tuple(change for change in slots if _remove(cursor, change)),
                tuple(host for host in hosts if rows.retire_host(cursor, host)),
            )

        return self._database.run(work)

    def adopt(self, pool: Pool, undo: Path, *, dry_run: bool = False) -> list[Candidate]:
        """Take over what VMs VCL has on the pool's hosts, those that are idle and whose VM is gone. What they were is
        in the file `undo` before that is done for good. Returns all, with why not.
        """
        sight = self._look(pool)
        old = self._old_vms(pool, sight)
        self._database.run(lambda cursor: rows.make_turn(cursor, pool.name))

        def work(cursor: Cursor) -> list[Candidate]:
            if not dry_run:
                rows.lock(cursor, pool.name)
            found = rows.read(cursor)
            plan, words = self._plan(cursor, found, pool, sight)
            hosts = [host.name for host in sight.hosts]
            wanted = list(adopt.candidates(cursor, found, hosts, words, old))
            if dry_run or all(one.why_not for one in wanted):
                return wanted
            told = adopt.take(cursor, plan, words, wanted)
            undo.unlink(missing_ok=True)  # of an earlier try, rolled back for the sake of another transaction
            adopt.write_undo(undo, pool.name, [one for one in told if not one.why_not])
            return told

        if not dry_run and undo.exists():
            raise ConfigurationError(f"{undo} is there already: name another file with --undo-file")
        return self._database.run(work)

    def give_back(self, undo: Path) -> list[GivenBack]:
        """Make the slots of an undo file what they were; those that are in use are left, and told."""
        name, slots = adopt.read_undo(undo)
        self._database.run(lambda cursor: rows.make_turn(cursor, name))

        def work(cursor: Cursor) -> list[GivenBack]:
            rows.lock(cursor, name)
            return adopt.give_back(cursor, slots)

        return self._database.run(work)

    def _old_vms(self, pool: Pool, sight: _Sight) -> OldVms:
        """The MACs of VMs on the pool's endpoints that are not ours."""

        def ask(hypervisor: Hypervisor) -> dict[str, tuple[str, str]]:
            seen = hypervisor.look()
            names = {host.key.moid: host.name for host in seen.hosts}
            return {
                nic.mac.lower(): (vm.name, names.get(vm.host_moid, seen.endpoint))
                for vm in seen.vms
                if annotation.read(vm.annotation) is None
                for nic in hypervisor.nics(vm)
            }

        macs: dict[str, tuple[str, str]] = {}
        silent = set(sight.silent)
        for name, answer in self._tools.looks.ask(pool.endpoints, ask):
            if isinstance(answer, ProvisioningError):
                silent.add(name)
            else:
                macs |= answer
        return OldVms(
            macs, frozenset(host.name.lower().partition(".")[0] for host in sight.hosts if host.endpoint in silent)
        )

    def _look(self, pool: Pool) -> _Sight:
        seen = survey(self._tools, pool)
        records = self._database.run(lambda cursor: list(rows.host_records(cursor)))
        remembered = [
            HostSize(one.endpoint, one.name, one.ram_mb, one.cpu_threads, one.uuid, silent=True)
            for one in records
            if one.pool == pool.name and not one.is_pool and one.endpoint in seen.silent
        ]
        live = [HostSize(host.key.endpoint, host.name, host.ram_mb, host.cpu_threads, host.uuid) for host in seen.hosts]
        if not live and not remembered:
            why = "; ".join(f"{name}: {problem}" for name, problem in seen.silent.items())
            raise ProvisioningError(
                "host_unavailable",
                f"pool {pool.name} has no host to make slots for: {why or 'see its endpoints, datacenter and cluster'}",
            )
        hosts = sorted([*live, *remembered], key=lambda host: (host.endpoint, host.name))
        return _Sight(tuple(hosts), tuple(self._tools.inventory.images()), tuple(seen.silent))

    def _outcome(self, cursor: Cursor, pool: Pool, sight: _Sight, *, does: bool) -> Outcome:
        if does:
            rows.lock(cursor, pool.name)
        found = rows.read(cursor)
        plan, words = self._plan(cursor, found, pool, sight)
        if plan.problem is not None:
            raise ConfigurationError(plan.problem)
        late = rows.write(cursor, plan, words) if does else []
        warnings = tuple(reach.warnings(cursor, pool, plan.shape, words))
        return Outcome(plan, tuple(late), warnings, sight.silent)

    def _plan(self, cursor: Cursor, found: Found, pool: Pool, sight: _Sight) -> tuple[Plan, Words]:
        words = rows.words(cursor, pool)
        return plan_of(found, self._wanted(pool, sight), words), words

    def _wanted(self, pool: Pool, sight: _Sight) -> Wanted:
        rules = Rules.of(pool)
        assert pool.slots is not None
        return Wanted(
            pool=pool.name,
            rules=pool.slots,
            count=most_slots(sight.hosts, sight.images, rules),
            shape=largest_shape(sight.hosts, sight.images, rules),
            hosts=sight.hosts,
            others=tuple(self._names_elsewhere(pool)),
        )

    def _names_elsewhere(self, pool: Pool) -> Iterator[str]:
        for other in self._pools.values():
            if other.slots is not None and other.name != pool.name:
                yield other.slots.pool_host
                for number in range(1, other.slots.most + 1):
                    yield numbered(other.slots, number).hostname


def _remove(cursor: Cursor, change: Change) -> bool:
    if change.kind is Kind.CLOSE:
        return rows.close(cursor, change)
    return change.kind is Kind.KEEP or rows.remove(cursor, change)
