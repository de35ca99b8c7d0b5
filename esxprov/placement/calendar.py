"""What the farm will look like: reservations end, and with them their VMs go; bookings start, and find a place or not.

Only what is known counts. What an ended VM leaves on a datastore, and what it used, is not: live figures stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from esxprov.model import Claim, HostKey
from esxprov.placement.booking import Booking
from esxprov.placement.farm import Farm, store_id
from esxprov.placement.promises import Promises
from esxprov.placement.request import PlacementRequest
from esxprov.placement.search import SOLVER_S, pick, would_fit
from esxprov.placement.snapshot import Snapshot

_MOST_TRIES = 100
"""At so many moments a cluster is tried, as each may take an exact answer."""

_MINUTE_S = 60

Step = tuple[int, int, int]
"""(time in epoch seconds, RAM in MB, vCPUs) that a host may still promise from then on."""


@dataclass(frozen=True, slots=True)
class Opening:
    """When there will be room, to the minute after it, and the reservations whose end makes it (0: not known)."""

    at: int
    reservations: tuple[int, ...]

    def __str__(self) -> str:
        """Completes "it would fit"."""
        known = sorted(set(self.reservations) - {0})
        if len(known) == 1:
            return f"at {minute(self.at)} when reservation {known[0]} ends"
        if 1 < len(known) <= 3:
            return f"at {minute(self.at)} when reservations {', '.join(map(str, known))} end"
        return f"at {minute(self.at)} when {len(self.reservations)} reservation(s) end"


def minute(at: int) -> str:
    """Epoch seconds as `2026-11-25T15:50Z`."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%MZ}"


class Calendar:
    """A snapshot's farm, carried forward in time. Belongs to one thread.

    `farm` is how it looks at `now`, `overbooked` the bookings that found no host until then.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.now = snapshot.at
        self.overbooked: list[Booking] = []
        self._snapshot = snapshot
        self._promises = Promises(snapshot.claims, snapshot.vms)
        states = [snapshot.state(host, self._promises) for host in snapshot.hosts]
        self.farm = Farm(states, snapshot.rules, snapshot.catalogue, at=self.now)
        self._hosts = {host.key: host for host in snapshot.hosts}
        self._written: dict[HostKey, Counter[str]] = {}  # what Farm knows to be still written, by host and datastore
        self._promises.touched.update(self._hosts)
        self._follow()
        self._ends: dict[str, int] = {c.id: c.ends_at for c in snapshot.claims if c.ends_at is not None}
        to_come = (b for b in snapshot.bookings if b.ends_at is None or b.ends_at > self.now)
        self._starts = sorted(to_come, key=self._turn)
        self._begun = 0

    def moments(self) -> Iterator[int]:
        """The times at which something changes, each when its turn has come; `advance` to it before the next."""
        while times := [*self._ends.values(), *(booking.starts_at for booking in self._starts[:1])]:
            yield max(self.now, min(times))

    def advance(self, at: int) -> tuple[Claim, ...]:
        """Go on to a time; returns the claims that have ended on the way. Ends come before starts, large VMs first."""
        ended: list[Claim] = []
        while True:
            start = self._starts[0].starts_at if self._starts else at + 1
            over = [(end, claim) for claim, end in self._ends.items() if end <= min(start, at)]
            for _, claim_id in sorted(over):
                ended.append(self._promises.claims[claim_id])
                self._end(claim_id)
            self._follow()
            if start > at:
                break
            ended += self._start(self._starts.pop(0))
            self._follow()
        self.now = max(self.now, at)
        self.farm.advance(self.now)
        return tuple(ended)

    def snapshot(self) -> Snapshot:
        """The world as it is then: bookings that have a host are claims."""
        return replace(
            self._snapshot,
            claims=tuple(self._promises.claims.values()),
            vms=tuple(self._promises.vms.values()),
            bookings=tuple(self._starts),
            at=self.now,
        )

    def _turn(self, booking: Booking) -> tuple[object, ...]:
        request = booking.request
        ram, cpus = max(1, int(self.farm.ram.sum())), max(1, int(self.farm.cpus.sum()))
        return booking.starts_at, -(booking.ram_mb / ram + booking.cpus / cpus), request.id, booking.ends_at or 0

    def _start(self, booking: Booking) -> list[Claim]:
        """Place a booking; returns the claims of its slot that made room for it."""
        replaced = self._promises.claims_of(booking.computer_id) if booking.computer_id else []
        for claim in replaced:
            self._end(claim.id)
        self._follow()
        request = booking.request
        number = pick(self.farm, request)
        if number is None:
            self.overbooked.append(booking)
            return replaced
        self._begun += 1
        claim = Claim(
            f"{request.id}/{self._begun}",
            self.farm.hosts[number].key,
            booking.computer_id,
            booking.ram_mb,
            booking.cpus,
            "",
            reservation_id=booking.reservation_id,
            group=booking.group,
            disk_mb=booking.disk_mb,
            datastore=booking.datastore,
            ends_at=booking.ends_at,
        )
        self._promises.put_claim(claim)
        if booking.ends_at is not None:
            self._ends[claim.id] = booking.ends_at
        return replaced

    def _end(self, claim_id: str) -> None:
        vm = self._promises.carrier(claim_id)
        self._promises.drop_claim(claim_id)
        self._ends.pop(claim_id, None)
        if vm is not None:
            self._promises.drop_vm((vm.endpoint, vm.moid))

    def _follow(self) -> None:
        """Tell the farm of the hosts that have changed."""
        for key in self._promises.touched & self._hosts.keys():
            host = self._hosts[key]
            disks = Counter(self._promises.of(key).disks_mb)
            change = Counter(disks)
            change.subtract(self._written.get(key, {}))
            for store in host.datastores:
                self.farm.write_pending(store_id(key, store), change[store.name])
            self._written[key] = disks
            self.farm.put(self._snapshot.state(host, self._promises))
        self._promises.touched.clear()


def calendar_at(snapshot: Snapshot, at: int) -> Calendar:
    """The calendar of a snapshot, carried forward to a time."""
    calendar = Calendar(snapshot)
    calendar.advance(at)
    return calendar


def timeline(snapshot: Snapshot) -> dict[str, list[Step]]:
    """By label: the steps of what each host may still promise, the first one as it is now."""
    calendar = Calendar(snapshot)
    labels = calendar.farm.labels()
    steps: dict[str, list[Step]] = {label: [] for label in labels}

    def note(at: int) -> None:
        for number, label in enumerate(labels):
            free = int(calendar.farm.ram_free[number]), int(calendar.farm.cpus_free[number])
            if not steps[label] or steps[label][-1][1:] != free:
                steps[label].append((at, *free))

    note(snapshot.at)
    for moment in calendar.moments():
        calendar.advance(moment)
        note(moment)
    return steps


def when(snapshot: Snapshot, requests: Sequence[PlacementRequest], budget_s: float = SOLVER_S) -> Opening | None:
    """The earliest known time at which all requests fit after something has ended, tried out on the world of then.

    None if there is none, or for a cluster none among the next _MOST_TRIES moments.
    """
    calendar = Calendar(snapshot)
    tries = 0
    for moment in calendar.moments():
        ended = calendar.advance(moment)
        if not ended:
            continue
        found = would_fit(calendar.farm, requests, budget_s / 4)
        tries += found.codes is not None  # where there is not enough room in all, nothing had to be tried
        if len(requests) > 1 and tries > _MOST_TRIES:
            return None
        if found.hosts is None:
            continue
        at = -(-moment // _MINUTE_S) * _MINUTE_S
        if at == moment or would_fit(calendar_at(snapshot, at).farm, requests, budget_s / 4).hosts is not None:
            taken = {calendar.farm.hosts[host].key for host in found.hosts}
            helpful = [claim for claim in ended if claim.host in taken] or ended
            return Opening(at, tuple(claim.reservation_id for claim in helpful))
    return None


def help_later(snapshot: Snapshot, requests: Sequence[PlacementRequest], budget_s: float = SOLVER_S) -> tuple[str, ...]:
    """A sentence that completes "it would fit", if waiting helps."""
    opening = when(snapshot, requests, budget_s)
    return (str(opening),) if opening else ()
