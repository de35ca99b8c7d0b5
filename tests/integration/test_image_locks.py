"""The lock of an image, on a real MariaDB: who has it, and when nobody has any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from esxprov import schema
from esxprov.database import Database
from esxprov.library.locks import ImageLocks
from esxprov.model import ImageWork
from tests.integration.claims_rig import database_at
from tests.testbed.mariadb import MariaDb

WORK = ImageWork("nfs1", "win10-v1", "event-1", "capture", "blades", "[nfs1] golden/.win10-v1.event-1", 4096)
OTHER = replace(WORK, event_id="event-2", purpose="stage", path="[nfs1] golden/.win10-v1.event-2")


@pytest.fixture
def database(mariadb: MariaDb) -> Iterator[Database]:
    made = database_at(str(mariadb.socket))
    schema.upgrade(made)
    for table in ("esxprov_image_work", "esxprov_event"):
        _execute(made, f"DELETE FROM {table}")
    yield made
    made.close()


@pytest.fixture
def locks(database: Database) -> ImageLocks:
    return ImageLocks(database)


def _execute(database: Database, sql: str, *values: object) -> None:
    database.single(lambda cursor: cursor.execute(sql, values))


def event(database: Database, event_id: str, state: str = "running", owned_s: int | None = 30) -> None:
    """A row of the journal; `owned_s` None is one that a service gave up, below 0 one that its service let go."""
    _execute(
        database,
        "INSERT INTO esxprov_event (id, call_name, state, steps, received_at, owned_until) VALUES "
        "(%s, 'capture', %s, '{}', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) + INTERVAL %s SECOND)",
        event_id,
        state,
        owned_s,
    )


def test_an_image_that_nobody_works_on_is_free(database: Database, locks: ImageLocks) -> None:
    event(database, "event-1")
    assert locks.take(WORK) is None
    assert locks.of_datastore("nfs1") == [WORK]
    assert locks.of_datastore("nfs2") == []


def test_what_is_being_made_is_told_in_the_order_in_which_it_was_begun(database: Database, locks: ImageLocks) -> None:
    works = [replace(WORK, image=image, event_id=f"event-{image}") for image in ("b", "c", "a")]
    for work in works:
        locks.take(work)
    assert locks.of_datastore("nfs1") == works
    locks.take(works[0])
    assert locks.of_datastore("nfs1") == [*works[1:], works[0]]


def test_an_event_that_comes_back_to_its_image_has_it_still(database: Database, locks: ImageLocks) -> None:
    event(database, "event-1")
    locks.take(WORK)
    later = replace(WORK, needed_mb=1)
    assert locks.take(later) is None
    assert locks.of_datastore("nfs1") == [later]


def test_who_comes_second_is_told_who_has_it(database: Database, locks: ImageLocks) -> None:
    event(database, "event-1")
    locks.take(WORK)
    busy = locks.take(OTHER)
    assert busy is not None
    assert (busy.work, busy.is_abandoned, busy.has_ended) == (WORK, False, False)
    assert locks.of_datastore("nfs1") == [WORK]


def test_the_same_image_on_another_datastore_is_another_one(database: Database, locks: ImageLocks) -> None:
    event(database, "event-1")
    locks.take(WORK)
    assert locks.take(replace(OTHER, datastore="nfs2")) is None


def test_names_that_differ_in_case_are_two(database: Database, locks: ImageLocks) -> None:
    event(database, "event-1")
    locks.take(WORK)
    assert locks.take(replace(OTHER, image="Win10-v1")) is None


@pytest.mark.parametrize("owned_s", [None, -1])
def test_an_event_that_nobody_works_on_still_has_its_image_but_may_be_followed(
    database: Database, locks: ImageLocks, owned_s: int | None
) -> None:
    event(database, "event-1", owned_s=owned_s)
    locks.take(WORK)
    busy = locks.take(OTHER)
    assert busy is not None
    assert (busy.is_abandoned, busy.has_ended) == (True, False)
    assert locks.take(OTHER, over="event-1") is None
    assert locks.of_datastore("nfs1") == [OTHER]
    assert locks.stale() == [OTHER], "event-2 is not in the journal"


def test_an_event_at_work_cannot_be_followed(database: Database, locks: ImageLocks) -> None:
    event(database, "event-1")
    locks.take(WORK)
    assert locks.take(OTHER, over="event-1") is not None
    assert locks.of_datastore("nfs1") == [WORK]


def test_what_is_meant_to_be_taken_over_from_one_is_not_taken_from_another(
    database: Database, locks: ImageLocks
) -> None:
    event(database, "event-1", owned_s=None)
    locks.take(WORK)
    assert locks.take(OTHER, over="event-0") is not None


@pytest.mark.parametrize("state", ["done", "cancelled", None])
def test_an_event_that_has_ended_will_not_finish_its_image(
    database: Database, locks: ImageLocks, state: str | None
) -> None:
    if state:
        event(database, "event-1", state)
    locks.take(WORK)
    busy = locks.take(OTHER)
    assert busy is not None
    assert (busy.work.path, busy.has_ended) == (WORK.path, True)
    assert locks.stale() == [WORK]


def test_a_running_event_is_not_stale(database: Database, locks: ImageLocks) -> None:
    event(database, "event-1", owned_s=None)
    locks.take(WORK)
    assert locks.stale() == []


def test_who_has_no_event_holds_an_image_for_a_time(database: Database, locks: ImageLocks) -> None:
    by_hand = replace(WORK, event_id="by-hand", purpose="delete")
    locks.take(by_hand, held_s=600)
    assert locks.stale() == []
    busy = locks.take(OTHER)
    assert busy is not None
    assert not busy.has_ended
    _execute(database, "UPDATE esxprov_image_work SET held_until = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND")
    assert locks.stale() == [by_hand]


def test_only_who_has_an_image_gives_it_back(database: Database, locks: ImageLocks) -> None:
    event(database, "event-1")
    locks.take(WORK)
    locks.done(OTHER)
    assert locks.of_datastore("nfs1") == [WORK]
    locks.done(WORK)
    locks.done(WORK)
    assert locks.of_datastore("nfs1") == []
    assert locks.take(OTHER) is None


def test_of_many_that_come_at_once_one_has_it(database: Database, locks: ImageLocks) -> None:
    many = [replace(WORK, event_id=f"event-{number}") for number in range(16)]
    for work in many:
        event(database, work.event_id)
    start = threading.Barrier(len(many))

    def take(work: ImageWork) -> bool:
        start.wait()
        return locks.take(work) is None

    with ThreadPoolExecutor(len(many)) as crowd:
        assert list(crowd.map(take, many)).count(True) == 1
