"""Claims on a real Galera cluster: a row lock holds on one node only, and what two commit at once is certified."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from esxprov.database import COMMIT, Cursor, Database, Statement, together
from esxprov.errors import DependencyUnavailable
from esxprov.model import Claim
from esxprov.placement import claim_rows
from esxprov.placement.claims import Claims
from esxprov.placement.ledger import Ledger
from esxprov.placement.wants import Proposal
from tests.galera.nodes import begin_anew, database_of
from tests.galera.storm import Storm
from tests.integration.claims_rig import (
    ask,
    bad_hosts,
    claim_of,
    end_leases,
    first_fit,
    ledger_of,
    never,
    used,
    want,
)
from tests.testbed.galera import Galera


def token(database: Database) -> int:
    """The last one that the database has committed, 0 before the first."""
    return database.single(claim_rows.token)


def test_a_decision_that_another_node_made_stale_is_made_again(databases: list[Database]) -> None:
    here, there = Claims(databases[0]), Claims(databases[1])
    seen: list[set[int]] = []

    def decide(ledger: Ledger, hint: Any) -> Proposal[str]:
        seen.append({claim.computer_id for claim in ledger})
        if len(seen) == 1:
            there.take(want(2))
        decision: Proposal[str] = first_fit([1])(ledger, hint)
        return decision

    claim = claim_of(here.take(want(1, decide)))
    assert seen == [set(), {2}]
    assert here.of_computer(1) == [claim]
    assert used(databases[0]) == {"esx1": (2000, 2)}


def test_of_a_packet_in_the_middle_of_which_another_node_wins_nothing_is_committed(
    galera: Galera, databases: list[Database]
) -> None:
    """In the first attempt of each transaction; the second one is done whole."""
    galera.nodes[0].execute("CREATE OR REPLACE TABLE esxprov_test (id INT PRIMARY KEY AUTO_INCREMENT, turn INT)")
    won = Statement("INSERT INTO esxprov_domain VALUES ('all', 1) ON DUPLICATE KEY UPDATE token = token + 1")
    more = Statement("INSERT INTO esxprov_test (turn) VALUES (0)")
    for _ in range(RACES):
        others = iter([databases[1]])

        def work(cursor: Cursor, others: Iterator[Database] = others) -> None:
            together(cursor, claim_rows.LOCK)
            for other in others:
                other.run(lambda cursor: together(cursor, [won]))
            together(cursor, [*[more] * 12, *COMMIT])

        databases[0].run(work, commits=True)
    assert ask(databases[0], "SELECT COUNT(*) AS found FROM esxprov_test") == [{"found": 12 * RACES}]
    assert token(databases[0]) == 2 * RACES


def test_a_transaction_that_loses_to_other_nodes_again_and_again_wins_in_the_end(databases: list[Database]) -> None:
    here, there = Claims(databases[0]), Claims(databases[1])
    lost = 0

    def decide(ledger: Ledger, hint: Any) -> Proposal[str]:
        nonlocal lost
        if lost < 40:
            lost += 1
            there.renew(["event-2"])
        decision: Proposal[str] = first_fit([1])(ledger, hint)
        return decision

    assert claim_of(here.take(want(1, decide))).computer_id == 1
    assert (lost, token(databases[0])) == (40, 41)


def test_a_node_that_is_behind_shows_the_past_and_decides_on_the_present(
    galera: Galera, databases: list[Database]
) -> None:
    here, there = Claims(databases[0]), Claims(databases[1])
    seen: set[int] = set()

    def decide(ledger: Ledger, hint: Any) -> Proposal[str]:
        seen.update(claim.computer_id for claim in ledger)
        decision: Proposal[str] = first_fit([2])(ledger, hint)
        return decision

    with ThreadPoolExecutor(1) as threads, closing(galera.nodes[1].administrator()) as late, late.cursor() as cursor:
        cursor.execute("FLUSH TABLES WITH READ LOCK")
        here.take(want(1))
        assert (there.all(), ledger_of(there)) == ([], set())
        taking = threads.submit(there.take, want(2, decide))
        here.take(want(3))
        cursor.execute("UNLOCK TABLES")
        claim_of(taking.result(60))
    assert seen == {1, 3}
    assert used(databases[1]) == {"esx1": (3000, 3)}


def test_each_transaction_of_each_node_has_a_token_of_its_own(databases: list[Database]) -> None:
    together = threading.Barrier(len(databases))

    def take(node: int) -> None:
        claims = Claims(databases[node])
        for turn in range(10):
            together.wait(60)
            claims.take(want(100 * node + turn))

    with ThreadPoolExecutor(len(databases)) as threads:
        list(threads.map(take, range(len(databases))))
    assert token(databases[0]) == 10 * len(databases)


def test_a_commit_during_which_the_node_loses_its_cluster_is_an_outage_and_is_done_once(
    galera: Galera, databases: list[Database]
) -> None:
    lonely, others = Claims(databases[2]), galera.nodes[:2]
    lonely.take(want(1))
    for node in others:
        node.child.pause()
    try:
        with pytest.raises(DependencyUnavailable, match="refuses user"):
            lonely.take(want(2))
        for attempt in (lonely.all, lonely.books, lambda: lonely.take(want(2)), lambda: lonely.release("some claim")):
            with pytest.raises(DependencyUnavailable, match="not yet prepared"):
                attempt()
    finally:
        for node in others:
            node.child.resume()
        galera.nodes[2].wait_until_ready()
    claim = claim_of(lonely.take(want(2)))
    for node, database in zip(galera.nodes, databases, strict=True):
        node.wait_until_ready()
        assert Claims(database).of_computer(2) == [claim]
        assert used(database) == {"esx1": (2000, 2)}


def test_a_node_that_comes_back_knows_what_was_claimed_and_released_meanwhile(
    galera: Galera, databases: list[Database]
) -> None:
    here, there = Claims(databases[0]), Claims(databases[1])
    gone, kept = claim_of(here.take(want(1))), claim_of(there.take(want(2)))
    galera.nodes[1].stop()
    with pytest.raises(DependencyUnavailable):
        there.take(want(3))
    here.release(gone.id)
    new = claim_of(here.take(want(3)))
    galera.nodes[1].restart()
    with closing(database_of(galera.nodes[1])) as database:
        assert Claims(database).take(want(3, never)).claim == new
        assert ledger_of(Claims(database)) == ledger_of(here) == {kept, new}


def test_sixteen_processes_near_capacity_keep_all_promises_though_some_and_a_node_are_killed(
    tmp_path: Path,
) -> None:
    rng = random.Random(1)
    with Galera(tmp_path) as galera, ExitStack() as ends:
        begin_anew(galera)
        *living, doomed = galera.nodes
        watched = {node: ends.enter_context(closing(database_of(node))) for node in galera.nodes}
        followers = [Claims(watched[node]) for node in living]
        tokens = dict.fromkeys(watched, 0)
        samples, killed = 0, 0
        with Storm(galera.nodes, processes=16) as storm:
            while storm.rages:
                for node, database in watched.items():
                    assert bad_hosts(database) == []
                    before, tokens[node] = tokens[node], token(database)
                    assert tokens[node] >= before
                for claims in followers:
                    ledger_of(claims)
                samples += 1
                if killed < 4 and max(tokens.values()) > 100 and rng.random() < 0.2:
                    storm.placers[killed].process.kill()
                    killed += 1
                if doomed in watched and max(tokens.values()) > 400:
                    doomed.kill()
                    del watched[doomed]
            for node in living:
                node.catch_up()
            victims, survivors = storm.placers[:killed], storm.placers[killed:]
            told = [(placer, placer.ask()) for placer in survivors]
        assert [placer.process.exitcode for placer in victims] == [-signal.SIGKILL] * 4
        assert {placer.process.exitcode for placer in survivors} == {0}
        assert [placer.node for placer, one in told if one.outage] == [p.node for p in survivors if p.node is doomed]
        assert doomed not in watched
        assert samples > 10
        assert sum(one.taken for _, one in told) > 200
        assert sum(one.refused for _, one in told) > 20
        assert sum(int(node.status(name)) for node in living for name in CONFLICTS) > 20

        first, second = watched.values()
        assert token(first) >= sum(one.commits for _, one in told)
        assert ask(first, "SELECT changed FROM esxprov_claim GROUP BY changed HAVING COUNT(DISTINCT owner) > 1") == []
        left = set(Claims(first).all())
        assert {claim_id for _, one in told for ids in one.held for claim_id in ids} <= {claim.id for claim in left}
        known: list[set[Claim]] = [one.mirror for _, one in told if not one.outage]
        known += [ledger_of(claims) for claims in (*followers, Claims(first), Claims(second))]
        assert all(mirror == left for mirror in known)
        assert bad_hosts(first) == bad_hosts(second) == []
        assert used(first) == used(second)

        end_leases(living[0])
        expired = Claims(first).expired()
        assert set(expired) == left
        Claims(first).release_many([claim.id for claim in expired])
        living[1].catch_up()
        for database in (first, second):
            assert (Claims(database).all(), set(used(database).values())) == ([], {(0, 0)})


RACES = 300
"""In so many, MariaDB 10.11 commits half a packet dozens of times if it ends with a mere COMMIT."""

CONFLICTS = ("wsrep_local_bf_aborts", "wsrep_local_cert_failures")
"""What a node counts: transactions of its own that gave way to one of another node while they ran, and at their end."""
