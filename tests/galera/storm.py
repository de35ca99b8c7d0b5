"""Processes that take and release claims at random, each on one node of a cluster, and what becomes of them."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Self

from esxprov.errors import DependencyUnavailable
from esxprov.model import Claim, HostKey
from esxprov.placement.claims import Claims
from esxprov.placement.wants import Want
from tests.integration.claims_rig import database_at, first_fit, ledger_of
from tests.testbed.galera import GaleraNode

HOSTS = [HostKey(f"esx{number}", "ha-host") for number in range(20)]
ROUNDS = 60


@dataclass
class Told:
    """What a process has done: transactions, takes, refusals, the ids of what it holds. `mirror` is what it knew when
    all had ended; `outage` what it was told when its node was lost.
    """

    commits: int = 0
    taken: int = 0
    refused: int = 0
    held: list[list[str]] = field(default_factory=list)
    mirror: set[Claim] = field(default_factory=set)
    outage: str = ""


class Placer:
    """One such process. It does not end before it has told what it has done."""

    def __init__(self, node: GaleraNode, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.node = node
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_place, args=(str(node.socket), number, theirs))
        self.process.start()
        theirs.close()

    @property
    def works(self) -> bool:
        """Whether it takes and releases still."""
        return self.process.is_alive() and not self._pipe.poll()

    def ask(self) -> Told:
        """What it has done. Everybody must have ended, and its node have caught up."""
        assert self._pipe.recv() == "done"
        self._pipe.send("all are")
        told = self._pipe.recv()
        assert isinstance(told, Told)
        self.process.join()
        return told


class Storm(ExitStack):
    """`placers`, spread over the nodes. As a context manager none of them survives it."""

    def __init__(self, nodes: Sequence[GaleraNode], processes: int) -> None:
        super().__init__()
        self._nodes = nodes
        self._count = processes
        self.placers: list[Placer] = []

    def __enter__(self) -> Self:
        for number in range(self._count):
            placer = Placer(self._nodes[number % len(self._nodes)], number)
            self.callback(placer.process.kill)
            self.placers.append(placer)
        return self

    @property
    def rages(self) -> bool:
        return any(placer.works for placer in self.placers)


def _place(socket: str, number: int, pipe: Connection) -> None:
    """At random, near the capacity, every tenth time a cluster."""
    rng = random.Random(number)
    claims = Claims(database_at(socket), f"process {number}")
    told = Told()
    try:
        for turn in range(ROUNDS):
            if told.held and rng.random() < 0.4:
                claims.release_many(told.held.pop(rng.randrange(len(told.held))))
            else:
                ram_mb, cpus = rng.choice([(256, 1), (512, 1), (1024, 2)])
                first = 1 + 1000 * (number * ROUNDS + turn)
                computers = range(first, first + (rng.randint(3, 8) if rng.random() < 0.1 else 1))
                taken = claims.take(Want(f"{number}-{turn}", first, 0, first_fit(computers, ram_mb, cpus, HOSTS)))
                if taken.claim is None:
                    told.refused += 1
                else:
                    told.taken += 1
                    told.held.append([taken.claim.id, *(claim.id for claim in taken.waiting)])
            told.commits += 1
    except DependencyUnavailable as error:
        told.outage = str(error)
    pipe.send("done")
    pipe.recv()
    if not told.outage:
        told.mirror = ledger_of(claims)
    pipe.send(told)
