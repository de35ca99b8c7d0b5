"""What is known to leave each host before each of some moments to come.

A claim of a reservation ends when the reservation does. Nothing is kept but sums, and a host is looked at again only
when one of its ends comes into reach: each claim costs a constant, however often the clock is asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

_STEP_S = 300
"""Time goes in such steps: nothing that ends within five minutes of another is worth a look of its own."""

_AHEAD = (6, 18, 48)
"""How far to look, in steps: half an hour, one and a half, four hours."""

MOMENTS = 1 + len(_AHEAD)
"""Now, and those."""

_MOST_STEPS = 1000
"""Of a longer leap of the clock all hosts are looked at again."""


class Departures:
    """Hosts are numbers. `leaving` has RAM in MB and vCPUs by host and moment; nothing leaves now."""

    def __init__(self, count: int, at: int) -> None:
        self.leaving: npt.NDArray[np.int64] = np.zeros((2, count, MOMENTS), np.int64)
        self._now = at // _STEP_S
        self._ends: list[dict[int, tuple[int, int]]] = [{} for _ in range(count)]  # by step
        self._due: defaultdict[int, set[int]] = defaultdict(set)  # by step: hosts where something may end then

    def put(self, host: int, ends: Mapping[int, tuple[int, int]]) -> None:
        """What ends on a host, RAM in MB and vCPUs by epoch seconds; whatever was known before is forgotten."""
        self._ends[host].clear()
        for ends_at, (ram_mb, cpus) in ends.items():
            self._add(host, ends_at, ram_mb, cpus)
        self._look(host)

    def add(self, host: int, ends_at: int, ram_mb: int, cpus: int) -> None:
        """So much more (or less) ends on a host."""
        self._add(host, ends_at, ram_mb, cpus)
        self.leaving[:, host, self.stays_for(ends_at) :] += ((ram_mb,), (cpus,))

    def advance(self, at: int) -> Iterable[int]:
        """It is that time now; returns the hosts of which more (or less) leaves than before."""
        before, self._now = self._now, at // _STEP_S
        if self._now == before:
            return ()
        if 0 < self._now - before <= _MOST_STEPS:
            passed = {step for ahead in _AHEAD for step in range(before + ahead + 1, self._now + ahead + 1)}
            hosts: Iterable[int] = {host for step in passed for host in self._due.get(step, ())}
            for step in range(before + _AHEAD[0] + 1, self._now + _AHEAD[0] + 1):
                self._due.pop(step, None)
        else:
            hosts = range(len(self._ends))
            self._due.clear()
            for host in hosts:
                for step in self._ends[host]:
                    self._expect(step, host)
        for host in hosts:
            self._look(host)
        return hosts

    def stays_for(self, ends_at: int | None) -> int:
        """For how many of the moments a VM is there that comes now and goes then."""
        if ends_at is None:
            return MOMENTS
        step = _step(ends_at)
        return 1 + sum(step > self._now + ahead for ahead in _AHEAD)

    def _add(self, host: int, ends_at: int, ram_mb: int, cpus: int) -> None:
        ends, step = self._ends[host], _step(ends_at)
        ram_before_mb, cpus_before = ends.get(step, (0, 0))
        ends[step] = ram_before_mb + ram_mb, cpus_before + cpus
        if ends[step] == (0, 0):
            del ends[step]
        self._expect(step, host)

    def _expect(self, step: int, host: int) -> None:
        if step > self._now + _AHEAD[0]:
            self._due[step].add(host)

    def _look(self, host: int) -> None:
        for number, ahead in enumerate(_AHEAD, start=1):
            within = [amounts for step, amounts in self._ends[host].items() if step <= self._now + ahead]
            self.leaving[0, host, number] = sum(ram_mb for ram_mb, _ in within)
            self.leaving[1, host, number] = sum(cpus for _, cpus in within)


def _step(ends_at: int) -> int:
    """The first step by which it has ended."""
    return -(-ends_at // _STEP_S)
