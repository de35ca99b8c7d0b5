"""Hosts as arrays: what a decision costs does not grow with what is stored, and hardly with the number of hosts.

For each kind of VM that was asked for, a row holds what its cost on every host is made of (see scores.py). A decision
is the smallest cost of a row; a VM that comes or goes, or an end that comes into sight, changes one column. The rules
are those of filters.py: the standing ones are asked once for each host, the passing ones are known here as arrays, too
(a property test holds the two together).
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from esxprov.model import Datastore, HostKey
from esxprov.placement import scores
from esxprov.placement.departures import Departures
from esxprov.placement.filters import FILTERS, STANDING, refusal
from esxprov.placement.host import HostState
from esxprov.placement.request import PlacementRequest
from esxprov.placement.scores import LostScarcePlaces, Numbers, Score
from esxprov.placement.snapshot import Rules, Size

FULL = scores.FULL
"""The cost of a host that a rule refuses."""

_MOST_ROWS = 64
"""Kinds of VMs known at a time: each is one more to refresh with every change."""

_MOST_ALIKE = 1 << 14
"""States of hosts known at a time."""

_Came = tuple[int, int, int | None]
"""(RAM, vCPUs, when it ends)."""

_Needs = tuple[str, tuple[str, ...], str]
"""(datastore, networks, image): what the standing rules ask about."""

RULES = (
    "",
    "connected",
    "maintenance",
    "unfit",
    "image",
    "datastore",
    "networks",
    "machine",
    "disk",
    "apart",
    "together",
    "max_per_host",
    "cpus",
    "ram",
)
"""Names of the rules by their number in `refusals`, in the order of FILTERS."""
_CODE = {name: code for code, name in enumerate(RULES)}
assert len(RULES) == len(FILTERS) + 1


@dataclass(slots=True)
class _Standing:
    """What the standing rules say to one kind of needs, by host; and which of `stores` the host would write to."""

    codes: npt.NDArray[np.int8]
    store: npt.NDArray[np.int64]  # -1: none


class Farm:
    """The hosts of a snapshot, to decide on. Belongs to one thread; what is placed with `occupy` counts at once."""

    def __init__(
        self,
        states: Iterable[HostState],
        rules: Rules,
        catalogue: Sequence[Size] = (),
        pending_mb: Mapping[str, int] | None = None,
        at: int = 0,
    ) -> None:
        """`pending_mb` is what is still to be written to each datastore; see `store_id`. It is `at`, in epoch seconds:
        see `advance`.
        """
        self.rules = rules
        # By key: where equal hosts stand must not depend on who was seen first.
        self.hosts = sorted(states, key=lambda state: (state.key.endpoint, state.key.moid))
        self.index: dict[HostKey, int] = {state.key: number for number, state in enumerate(self.hosts)}
        self.catalogue = tuple(catalogue)
        self.groups: defaultdict[str, dict[int, int]] = defaultdict(dict)  # group -> host -> how many
        count = len(self.hosts)
        self._numbers = np.zeros((4, count), np.int64)
        self._free, self._whole = self._numbers[:2], self._numbers[2:]
        self._largest = np.zeros((2, count), np.int64)  # RAM and vCPUs of the largest VM that the empty host takes
        self._usable = np.zeros(count, np.int64)  # 1 if a host's places are places for anything
        self.ram_free, self.cpus_free = self._free
        self.ram, self.cpus = self._whole
        self._changed: set[int] = set()  # hosts whose columns are out of date
        self._came: dict[int, dict[_Came, int]] = {}  # since the state was put: how many VMs like that
        self._pending = Counter(pending_mb or {})
        self._departures = Departures(count, at) if scores.looks_ahead(rules.policy, count) else None
        self._exact: set[tuple[int, int]] = set()  # sizes that have a row of their own
        self._row_of: dict[tuple[int, int, _Needs], int] = {}
        # Row 0 is the VM that needs nothing; see scores.Score.
        self._rows = np.zeros((1, count, 1), np.int64)
        self._closed = np.zeros((1, count), bool)  # by a standing rule, or because the machine is too small
        self._needs = np.zeros((2, 1), np.int64)  # RAM and vCPUs by row
        self._alike: dict[bytes, Numbers] = {}  # columns by what the host is like
        self._standing: dict[_Needs, _Standing] = {}
        self._stores: dict[str, int] = {}
        self._store_free: list[int] = []
        for number, state in enumerate(self.hosts):
            self._read(number, state)
        self._weigh()

    def __len__(self) -> int:
        return len(self.hosts)

    # --- what changes ------------------------------------------------------------------------------------------------

    def put(self, state: HostState) -> None:
        """A host as it is now; it must be one of the farm's."""
        number = self.index[state.key]
        old, whole, largest = self.hosts[number], self._whole[:, number].tolist(), self._largest[:, number].tolist()
        for group in [group for group, hosts in self.groups.items() if number in hosts]:
            del self.groups[group][number]
        self.hosts[number] = state
        self._came.pop(number, None)
        self._read(number, state)
        if self._whole[:, number].tolist() != whole:
            self._weigh()
        if _stands_differently(old, state) or self._largest[:, number].tolist() != largest:
            for needs, standing in self._standing.items():
                self._stand(standing, needs, number)
            for (*size, needs), row in self._row_of.items():
                too_large = bool((self._largest[:, number] < size).any())
                self._closed[row, number] = too_large or self._standing[needs].codes[number] != 0
        self._changed.add(number)

    def write_pending(self, store: str, change_mb: int) -> None:
        """More (or less) is still to be written to a datastore."""
        self._pending[store] += change_mb

    def occupy(self, number: int, request: PlacementRequest) -> None:
        """The VM goes to that host."""
        self._change(number, request, 1)

    def vacate(self, number: int, request: PlacementRequest) -> None:
        """The VM that was put there with `occupy`, or is counted in the host's state, is gone."""
        self._change(number, request, -1)

    def expect(self, catalogue: Sequence[Size]) -> None:
        """Weigh hosts by another catalogue from now on."""
        if tuple(catalogue) != self.catalogue:
            self.catalogue = tuple(catalogue)
            self._weigh()

    def advance(self, at: int) -> None:
        """It is that time now, in epoch seconds: what is known to end may be nearer than it was."""
        if self._departures:
            self._changed.update(self._departures.advance(at))

    def _weigh(self) -> None:
        """Tell hosts apart by the catalogue as it is, and by what the hosts are."""
        self._exact = {(size.ram_mb, size.cpus) for size in scores.weightiest(self.catalogue, _MOST_ROWS // 2)}
        self._score: Score = scores.score_of(self.rules.policy, self.catalogue, self._whole)
        self._rows = np.zeros((1, len(self.hosts), self._score.width), np.int64)
        self._weights = np.zeros(self._score.width, np.int64)
        if self._departures:
            self._changed.update(range(len(self.hosts)))
        self._forget_rows()

    def _change(self, number: int, request: PlacementRequest, sign: int) -> None:
        ram_mb, cpus = request.ram_needed_mb, request.cpus
        self.ram_free[number] -= sign * ram_mb
        self.cpus_free[number] -= sign * cpus
        came = self._came.setdefault(number, {})
        kind = ram_mb, cpus, request.ends_at
        came[kind] = came.get(kind, 0) + sign
        if self._departures and request.ends_at is not None:
            self._departures.add(number, request.ends_at, sign * ram_mb, sign * cpus)
        if request.group:
            there = self.groups[request.group]
            there[number] = there.get(number, 0) + sign
            if not there[number]:
                del there[number]
                if not there:
                    del self.groups[request.group]
        if request.disk_mb and (store := self.hosts[number].datastore(request.datastore)):
            self._pending[store_id(self.hosts[number].key, store)] += sign * request.disk_mb
        self._changed.add(number)

    def _read(self, number: int, state: HostState) -> None:
        self.ram_free[number], self.cpus_free[number] = state.ram_free_mb, state.cpus_free
        self.ram[number], self.cpus[number] = state.ram_capacity_mb, state.cpus_capacity
        self._largest[:, number] = state.largest_vm_ram_mb, state.largest_vm_cpus
        self._usable[number] = state.state == "connected" and not state.maintenance and state.unfit is None
        if self._departures:
            self._departures.put(number, state.ends)
        for group, there in state.groups.items():
            self.groups[group][number] = there

    def _refresh(self) -> None:
        """The costs of all kinds of VMs on the hosts that have changed."""
        if isinstance(self._score, LostScarcePlaces):
            some = _index(list(self._changed))
            self._rows[:, some] = self._columns(some)
            self._weights = self._score.weights(self._usable.dot(self._rows[0]))
        else:
            self._refresh_alike()
        self._changed.clear()

    def _refresh_alike(self) -> None:
        """Hosts that are alike cost the same, and most hosts have been like that before, or others have."""
        unknown: dict[bytes, list[int]] = {}
        for number in self._changed:
            here = self._numbers[:, number].tobytes() + self._closed[:, number].tobytes()
            column = self._alike.get(here)
            if column is None:
                unknown.setdefault(here, []).append(number)
            else:
                self._rows[:, number] = column
        if unknown:
            columns = self._columns(_index([numbers[0] for numbers in unknown.values()]))
            if len(self._alike) > _MOST_ALIKE:
                self._alike.clear()
            for index, (here, numbers) in enumerate(unknown.items()):
                self._alike[here] = columns[:, index]
                for number in numbers:
                    self._rows[:, number] = columns[:, index]

    def _columns(self, some: list[int] | slice) -> Numbers:
        """What all kinds of VMs cost on some hosts."""
        return self._parts(self._free_at(some), self._whole[:, some], self._needs, self._closed[:, some])

    def _parts(self, free: Numbers, whole: Numbers, needs: Numbers, closed: npt.NDArray[np.bool_]) -> Numbers:
        """By VM, host and part, FULL where there is no room or it is closed."""
        parts = self._score.parts(free, whole, needs)
        parts[..., 0][closed] = FULL
        return parts

    def _free_at(self, some: list[int] | slice) -> Numbers:
        """RAM and vCPUs that some hosts may still promise, by host and moment."""
        free = self._free[:, some, None]
        return free + self._departures.leaving[:, some] if self._departures else free

    # --- what it costs -----------------------------------------------------------------------------------------------

    def costs(self, request: PlacementRequest) -> Numbers:
        """The VM's cost on every host, FULL where a rule refuses it. Soft affinities are no rule here.

        A size that is not in the catalogue costs what one a little smaller does: sizes of all kinds would otherwise be
        a row each.
        """
        size = request.ram_needed_mb, request.cpus
        near = size if size in self._exact else (_rounded(size[0]), _rounded(size[1]))
        number = self._row(*near, request)
        if self._changed:
            self._refresh()
        costs = self._costs_of(number, request)
        closed = self._refused(request)
        if near != size:
            room = np.minimum(self._free, self._largest)
            short = (room[0] < size[0]) | (room[1] < size[1])
            closed = short if closed is None else closed | short
        if closed is not None:
            costs = np.where(closed, FULL, costs)
        return costs

    def _costs_of(self, row: int, request: PlacementRequest) -> Numbers:
        parts = self._rows[row]
        if not isinstance(self._score, LostScarcePlaces) or not self._departures:
            costs: Numbers = parts[:, 0]
            return costs
        return self._score.costs(parts, self._weights, self._departures.stays_for(request.ends_at))

    def best(self, costs: Numbers, request: PlacementRequest) -> int | None:
        """The host of the least cost; of equal ones, one that depends on the request's id. None if all are FULL."""
        if not len(costs):
            return None
        # The first one from there on, and round: no host has to be looked at twice.
        start = _hash(request.id) % len(costs)
        later = start + int(costs[start:].argmin())
        sooner = int(costs[: start + 1].argmin())
        least_later, least = costs[later], costs[sooner]
        if least_later <= least:
            return None if least_later == FULL else later
        return sooner

    def explain(self, cost: int) -> str:
        """Why a host is the best, in words."""
        return self._score.explain(cost)

    def refusals(self, request: PlacementRequest) -> npt.NDArray[np.int8]:
        """For each host the number (in RULES) of the first rule that refuses the VM, 0 if none does."""
        codes = np.zeros(len(self.hosts), np.int8)
        codes[self.ram_free < request.ram_needed_mb] = _CODE["ram"]
        codes[self.cpus_free < request.cpus] = _CODE["cpus"]
        codes[self._crowded(request)] = _CODE["max_per_host"]
        for wish in request.affinities:
            members = list(self.groups.get(wish.group, ()))
            if wish.hard and wish.together and members:
                lonely = np.ones(len(self.hosts), bool)
                lonely[members] = False
                codes[lonely] = _CODE["together"]
        for wish in request.affinities:
            if wish.hard and not wish.together:
                codes[list(self.groups.get(wish.group, ()))] = _CODE["apart"]
        standing = self._standing_for(request)
        short = self._short_of_disk(request, standing)
        if short is not None:
            codes[short] = _CODE["disk"]
        codes[(self._largest[0] < request.ram_needed_mb) | (self._largest[1] < request.cpus)] = _CODE["machine"]
        return np.where(standing.codes != 0, standing.codes, codes)

    def state(self, number: int) -> HostState:
        """A host with all that was placed on it, and its datastores less what is still to be written to them."""
        now = self.raw(number)
        stores = (
            replace(store, free_mb=store.free_mb - self._pending[store_id(now.key, store)]) for store in now.datastores
        )
        return replace(now, datastores=tuple(stores))

    def raw(self, number: int) -> HostState:
        """A host as `put` takes it: with all that was placed on it, its datastores as they are."""
        base = self.hosts[number]
        more_ram_mb = base.ram_free_mb - int(self.ram_free[number])
        groups = {group: there[number] for group, there in self.groups.items() if number in there}
        return replace(
            base,
            promised_ram_mb=base.promised_ram_mb + more_ram_mb,
            warming_ram_mb=base.warming_ram_mb + more_ram_mb,
            promised_cpus=base.promised_cpus + base.cpus_free - int(self.cpus_free[number]),
            groups=groups,
            residents=self.residents(number),
            ends=self._ends(number),
        )

    def labels(self) -> list[str]:
        """What to call each host: its name, with its key if several have it (ESXi is born `localhost.localdomain`)."""
        count = Counter(host.name for host in self.hosts)
        return [host.name if count[host.name] == 1 else f"{host.name} ({host.key})" for host in self.hosts]

    def residents(self, number: int) -> dict[tuple[int, int], int]:
        """How many VMs of each size (RAM, vCPUs) a host has."""
        there = Counter(self.hosts[number].residents)
        for (ram_mb, cpus, _), many in self._came.get(number, {}).items():
            there[ram_mb, cpus] += many
        return {size: many for size, many in there.items() if many > 0}

    def _ends(self, number: int) -> dict[int, tuple[int, int]]:
        """What ends on a host: RAM and vCPUs by time."""
        ends = dict(self.hosts[number].ends)
        for (ram_mb, cpus, ends_at), many in self._came.get(number, {}).items():
            if ends_at is not None:
                ram_before_mb, cpus_before = ends.get(ends_at, (0, 0))
                ends[ends_at] = ram_before_mb + many * ram_mb, cpus_before + many * cpus
        return {ends_at: amounts for ends_at, amounts in ends.items() if amounts != (0, 0)}

    def _row(self, ram_mb: int, cpus: int, request: PlacementRequest) -> int:
        kind = (ram_mb, cpus, self._needs_of(request))
        row = self._row_of.get(kind)
        if row is None:
            self._standing_for(request)  # first, as it may forget all rows
            row = self._row_of[kind] = self._spare_row()
            self._fill_row(row, ram_mb, cpus, request)
        return row

    def _spare_row(self) -> int:
        """A row to be filled: the one that was made first if there are many."""
        self._alike.clear()
        if len(self._row_of) >= _MOST_ROWS:
            return self._row_of.pop(next(iter(self._row_of)))
        self._rows = np.vstack([self._rows, self._rows[:1]])
        self._closed = np.vstack([self._closed, self._closed[:1]])
        self._needs = np.hstack([self._needs, self._needs[:, :1]])
        return len(self._rows) - 1

    def _fill_row(self, row: int, ram_mb: int, cpus: int, request: PlacementRequest) -> None:
        needs = np.array([[0, ram_mb], [0, cpus]], np.int64)
        too_large = (self._largest < needs[:, 1:]).any(axis=0)
        self._needs[:, row] = needs[:, 1]
        self._closed[row] = too_large | (self._standing_for(request).codes != 0)
        everywhere = slice(None)
        parts = self._parts(self._free_at(everywhere), self._whole, needs, self._closed[[0, row]])
        self._rows[row] = parts[1]

    def _forget_rows(self) -> None:
        self._row_of.clear()
        self._rows, self._closed, self._needs = self._rows[:1], self._closed[:1], self._needs[:, :1]
        self._alike.clear()

    # --- rules as arrays ---------------------------------------------------------------------------------------------

    def _needs_of(self, request: PlacementRequest) -> _Needs:
        return request.datastore, request.networks, request.image if self.rules.image_hosts else ""

    def _standing_for(self, request: PlacementRequest) -> _Standing:
        needs = self._needs_of(request)
        standing = self._standing.get(needs)
        if standing is None:
            count = len(self.hosts)
            standing = _Standing(np.zeros(count, np.int8), np.full(count, -1, np.int64))
            for number in range(count):
                self._stand(standing, needs, number)
            if len(self._standing) >= _MOST_ROWS:
                self._standing.clear()
                self._forget_rows()
            self._standing[needs] = standing
        return standing

    def _stand(self, standing: _Standing, needs: _Needs, number: int) -> None:
        datastore, networks, image = needs
        asked = PlacementRequest("", 0, 0, datastore=datastore, networks=networks, image=image)
        host = self.hosts[number]
        refused = refusal(asked, host, self.rules, STANDING)
        standing.codes[number] = _CODE[refused.rule] if refused else 0
        store = host.datastore(datastore) if datastore else None
        standing.store[number] = self._store_number(host.key, store) if store else -1

    def _store_number(self, host: HostKey, store: Datastore) -> int:
        name = store_id(host, store)
        number = self._stores.setdefault(name, len(self._stores))
        if number == len(self._store_free):
            self._store_free.append(0)
        self._store_free[number] = store.free_mb
        return number

    def _short_of_disk(self, request: PlacementRequest, standing: _Standing) -> npt.NDArray[np.bool_] | None:
        if not request.disk_mb or not self._stores:
            return None
        free = np.array(self._store_free, np.int64)
        for store, pending_mb in self._pending.items():
            if pending_mb and store in self._stores:
                free[self._stores[store]] -= pending_mb
        if free.min() >= request.disk_mb:
            return None
        return (standing.store >= 0) & (free[standing.store] < request.disk_mb)

    def _crowded(self, request: PlacementRequest) -> list[int]:
        most = request.max_per_host
        if most is None:
            return []
        return [number for number, there in self.groups.get(request.group, {}).items() if there >= most]

    def _refused(self, request: PlacementRequest) -> npt.NDArray[np.bool_] | None:
        """Where a rule that is no matter of room and standing refuses the VM; None if none does."""
        short = self._short_of_disk(request, self._standing_for(request)) if request.disk_mb else None
        crowded = self._crowded(request)
        if short is None and not crowded and not request.affinities:
            return None
        closed = np.zeros(len(self.hosts), bool) if short is None else short.copy()
        closed[crowded] = True
        for wish in request.affinities:
            members = list(self.groups.get(wish.group, ()))
            if not wish.hard or (wish.together and not members):
                continue
            if wish.together:
                lonely = np.ones(len(self.hosts), bool)
                lonely[members] = False
                closed |= lonely
            else:
                closed[members] = True
        return closed


def store_id(host: HostKey, store: Datastore) -> str:
    """The datastore's identity: its URL, which all hosts that share it know it by."""
    return store.url or f"{host.endpoint}/{store.name}"


def _index(numbers: list[int]) -> list[int] | slice:
    """The same hosts; one of them as a slice, which makes half the work of it."""
    return numbers if len(numbers) > 1 else slice(numbers[0], numbers[0] + 1)


def _stands_differently(old: HostState, new: HostState) -> bool:
    return (old.state, old.maintenance, old.unfit, old.name, old.datastores, old.networks) != (
        new.state,
        new.maintenance,
        new.unfit,
        new.name,
        new.datastores,
        new.networks,
    )


def _rounded(number: int) -> int:
    """Down to two significant bits."""
    bits = max(0, number.bit_length() - 2)
    return number >> bits << bits


def _hash(text: str) -> int:
    """Not hash(), which differs in every process."""
    return zlib.crc32(text.encode())
