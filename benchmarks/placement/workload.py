"""A workload like that of a campus that runs Apache VCL: classes, walk-ins, clusters and servers on mixed blades.

Everything follows from the seed. Numbers are ours; their shape is that of a term: a class reserves one image for all
its students within a few minutes, individuals come through the day, clusters are all or nothing, servers stay for days.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.placement.demand import peak, thinned
from benchmarks.placement.rows import Host, Request, Vm

_HOUR_S = 3600
_DAY_S = 24 * _HOUR_S


@dataclass(frozen=True, slots=True)
class Image:
    """What a VM of it needs, and its share of all choices of an image."""

    name: str
    cpus: int
    ram_mb: int
    share: float


CATALOGUE = (
    Image("shell", 1, 1024, 0.05),
    Image("linux", 1, 2048, 0.17),
    Image("programming", 2, 2048, 0.10),
    Image("desktop", 2, 4096, 0.25),
    Image("statistics", 2, 6144, 0.07),
    Image("compiler", 4, 4096, 0.06),
    Image("engineering", 4, 8192, 0.14),
    Image("database", 4, 12288, 0.05),
    Image("rendering", 8, 8192, 0.03),
    Image("simulation", 8, 16384, 0.06),
    Image("in-memory", 2, 16384, 0.02),
)
_SHARES = np.array([image.share for image in CATALOGUE])
_HEADS = tuple(image for image in CATALOGUE if image.name in ("engineering", "database", "simulation"))

HYPERVISOR_MB = 4096
"""What a host keeps for itself."""
_BLADE_RAM_GB = (96, 128, 192, 256)

_CLASS_DAYS = ((0, 2), (1, 3), (0, 2, 4), (4,), (2,))
_CLASS_STARTS_H = (8.0, 9.5, 11.0, 13.0, 14.5, 16.0)
_CLASS_LENGTHS_H = (1.5, 2.0, 3.0)
_WALK_IN_LENGTHS_H = (1, 2, 3, 4, 6, 8)
_CLUSTER_LENGTHS_H = (2, 4, 8, 24)
_LEAVE_EARLY = 0.35
"""The share of reservations that the user ends before their time."""


def farm(seed: int, blades: int = 14, vcpu_ratio: int = 3, threads: Sequence[int] = (24, 32, 32, 40)) -> list[Host]:
    """Mixed two-socket blades."""
    random = np.random.default_rng([seed, 1])
    return [
        Host(
            f"blade-{number:02}",
            int(random.choice(threads)) * vcpu_ratio,
            int(random.choice(_BLADE_RAM_GB)) * 1024 - HYPERVISOR_MB,
        )
        for number in range(1, blades + 1)
    ]


def requests(seed: int, hosts: Sequence[Host], load: float, weeks: int = 2) -> list[Request]:
    """What comes to `hosts` in `weeks`, in order of arrival.

    Departments come until the peak of what would run at once reaches `load` (see `demand.peak`); then single requests
    are left out at random.
    """
    found: list[Request] = []
    department = 0
    while peak(found, hosts) < load:
        department += 1
        drafts = _department(np.random.default_rng([seed, 2, department]), weeks)
        found += [draft.request(f"r{department}.{number}") for number, draft in enumerate(drafts, start=1)]
    return thinned(found, hosts, load, seed)


@dataclass(frozen=True, slots=True)
class _Stay:
    """How long somebody stays, and how long they said they would."""

    lasts_s: int
    booked_s: int


@dataclass(frozen=True, slots=True)
class _Draft:
    """A request that has no name yet."""

    time_s: int
    stay: _Stay
    images: tuple[Image, ...]

    def request(self, name: str) -> Request:
        vms = tuple(
            Vm(f"{name}-{index}", image.cpus, image.ram_mb, self.stay.lasts_s, self.stay.booked_s)
            for index, image in enumerate(self.images, start=1)
        )
        return Request(name, self.time_s, vms)


def _department(random: np.random.Generator, weeks: int) -> Iterator[_Draft]:
    for _ in range(5):
        yield from _class(random, weeks)
    for day in range(7 * weeks):
        workday = day % 7 < 5
        for _ in range(random.poisson(44 if workday else 18)):
            yield _reserved(random, day, random.normal(15, 4.5), int(random.choice(_WALK_IN_LENGTHS_H)) * _HOUR_S)
        for _ in range(random.poisson(2.0 if workday else 0.8)):
            yield _cluster(random, day)
        for _ in range(random.poisson(0.8)):
            yield _reserved(random, day, random.uniform(8, 18), int(random.uniform(2, 30) * _DAY_S))


def _class(random: np.random.Generator, weeks: int) -> Iterator[_Draft]:
    """One section of a course: the same image for everybody, at the same hours of every week."""
    image = _image(random)
    days = _CLASS_DAYS[random.integers(len(_CLASS_DAYS))]
    start_h = float(random.choice(_CLASS_STARTS_H))
    length_s = int(float(random.choice(_CLASS_LENGTHS_H)) * _HOUR_S)
    students = int(random.integers(12, 45))
    for week in range(weeks):
        for day in days:
            for _ in range(random.binomial(students, 0.85)):
                comes_h = start_h + random.normal(60, 240) / _HOUR_S
                yield _Draft(_at_s(7 * week + day, comes_h), _stay(random, length_s), (image,))


def _cluster(random: np.random.Generator, day: int) -> _Draft:
    """A head and two to eleven equal workers, all or nothing."""
    workers = (_image(random),) * int(random.integers(2, 12))
    length_s = int(random.choice(_CLUSTER_LENGTHS_H)) * _HOUR_S
    head = _HEADS[random.integers(len(_HEADS))]
    return _Draft(_at_s(day, random.normal(14, 4)), _stay(random, length_s), (head, *workers))


def _reserved(random: np.random.Generator, day: int, hour: float, length_s: int) -> _Draft:
    return _Draft(_at_s(day, hour), _stay(random, length_s), (_image(random),))


def _image(random: np.random.Generator) -> Image:
    return CATALOGUE[random.choice(len(CATALOGUE), p=_SHARES)]


def _stay(random: np.random.Generator, booked_s: int) -> _Stay:
    return _Stay(int(booked_s * random.uniform(0.2, 1)) if random.random() < _LEAVE_EARLY else booked_s, booked_s)


def _at_s(day: int, hour: float) -> int:
    return day * _DAY_S + int(min(max(hour, 0.0), 23.99) * _HOUR_S)
