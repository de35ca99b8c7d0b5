"""The journal on a real database: who owns an event, who may still write, what is answered again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bridge.contract import Outcome
from bridge.envelope import Event, finished, request
from esxprov import schema
from esxprov.database import Database, DatabaseConfig
from esxprov.errors import OwnershipLost
from esxprov.journal import MAX_TAKEOVERS, Acceptance, Journal
from tests.testbed.mariadb import PASSWORD, MariaDb

QUEUE = "vcl.reply.mn1.1"


@pytest.fixture(scope="module")
def database(mariadb: MariaDb) -> Iterator[Database]:
    config = DatabaseConfig(unix_socket=str(mariadb.socket), user="esxprov", password=PASSWORD, name="vcl")
    opened = Database(config)
    schema.upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture
def journal(database: Database) -> Journal:
    """Empty, and ours."""
    database.run(lambda cursor: cursor.execute("DELETE FROM esxprov_event"))
    return Journal(database, "first")


@pytest.fixture
def other(database: Database, journal: Journal) -> Journal:
    """Another service on the same tables."""
    return Journal(database, "second")


def event(call: str = "load", computer: int = 7) -> Event:
    data = {"computer": {"id": computer, "name": "vm7"}, "reservation": {"reservation_id": 5}}
    return request(call, source="urn:test", now=datetime.now(UTC), data=data)


def done(of: Event) -> Event:
    return finished(of, now=datetime.now(UTC), outcome=Outcome.OK, result={"host": "esx1"})


def age(database: Database, of: Event) -> None:
    """Its owner has been silent for too long."""
    database.run(
        lambda cursor: cursor.execute(
            "UPDATE esxprov_event SET owned_until = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND WHERE id = %s", (of.id,)
        )
    )


def test_a_new_event_is_owned_and_its_second_delivery_is_not(journal: Journal, other: Journal) -> None:
    load = event()
    assert journal.accept(load, QUEUE)[0] is Acceptance.OWNED
    assert journal.accept(load, QUEUE)[0] is Acceptance.BUSY
    assert other.accept(load, QUEUE)[0] is Acceptance.BUSY


def test_an_abandoned_event_is_taken_over_and_its_old_owner_can_write_nothing_more(
    journal: Journal, other: Journal, database: Database
) -> None:
    load = event()
    _, mine = journal.accept(load, QUEUE)
    journal.step(mine, "copy_disk", {"place": {"host": "esx1"}})
    age(database, load)
    (theirs,) = other.recover(10)
    assert (theirs.epoch, theirs.steps, theirs.takeovers) == (mine.epoch + 1, {"place": {"host": "esx1"}}, 1)
    for write in (
        lambda: journal.step(mine, "register", {}),
        lambda: journal.retried(mine, 2),
        lambda: journal.release(mine),
        lambda: journal.finish(mine, Outcome.OK, done(load)),
    ):
        with pytest.raises(OwnershipLost):
            write()
    assert journal.renew([mine]) == {}
    assert other.renew([theirs]) == {theirs.seq: None}
    assert journal.recover(10) == []


def test_an_event_whose_owner_is_known_to_be_dead_is_taken_over_at_once(journal: Journal, other: Journal) -> None:
    journal.accept(event(), QUEUE)
    other.give_up(lambda owner: owner == "third")
    assert other.recover(10) == []
    other.give_up(lambda owner: owner == "first")
    (taken,) = other.recover(10)
    assert (taken.epoch, taken.takeovers) == (2, 1)


def test_an_event_given_up_in_order_is_taken_over_at_once_and_counts_as_no_death(
    journal: Journal, other: Journal
) -> None:
    _, mine = journal.accept(event(), QUEUE)
    journal.release(mine)
    (taken,) = other.recover(10)
    assert (taken.epoch, taken.takeovers) == (2, 0)


def test_no_more_events_are_taken_over_than_there_is_room_for(
    journal: Journal, other: Journal, database: Database
) -> None:
    loads = [event(computer=number) for number in range(3)]
    for load in loads:
        journal.accept(load, QUEUE)
        age(database, load)
    assert [record.event.id for record in other.recover(2)] == [load.id for load in loads[:2]]
    assert other.recover(0) == []


def test_an_event_that_outlives_its_services_is_counted(journal: Journal, database: Database) -> None:
    load = event()
    journal.accept(load, QUEUE)
    for number in range(1, MAX_TAKEOVERS + 2):
        age(database, load)
        (taken,) = Journal(database, f"service{number}").recover(1)
        assert taken.takeovers == number


def test_an_outcome_is_unsent_until_its_reply_is_and_is_answered_again_when_asked_again(
    journal: Journal, other: Journal
) -> None:
    load = event()
    _, mine = journal.accept(load, QUEUE)
    reply = done(load)
    stored = journal.finish(mine, Outcome.OK, reply)
    assert [record.reply for record in journal.unsent()] == [stored.reply]
    assert other.unsent() == []  # its owner may be just about to send it
    journal.replied(stored, delivered=True)
    assert journal.unsent() == []
    acceptance, again = other.accept(load, QUEUE)
    assert (acceptance, again.reply) == (Acceptance.DONE, stored.reply)


def test_the_reply_goes_to_where_it_was_asked_for_last(journal: Journal) -> None:
    load = event()
    _, mine = journal.accept(load, QUEUE)
    assert journal.accept(load, "esxprov.cli.new")[1].reply_to == "esxprov.cli.new"
    journal.finish(mine, Outcome.OK, done(load))
    assert [record.reply_to for record in journal.unsent()] == ["esxprov.cli.new"]
    assert journal.accept(load, "esxprov.cli.newest")[1].reply_to == "esxprov.cli.newest"


def test_a_newer_load_or_unload_asks_older_ones_of_the_computer_to_stop_but_never_a_capture(journal: Journal) -> None:
    events = [event("load"), event("capture"), event("load", computer=8), event("power_on")]
    records = [journal.accept(one, QUEUE)[1] for one in events]
    newer = event("unload")
    _, last = journal.accept(newer, QUEUE)
    reasons = journal.renew([*records, last])
    assert reasons == {record.seq: None for record in [*records[1:], last]} | {
        records[0].seq: f"superseded by the newer unload {newer.id}"
    }
    assert journal.older_running(last) == (events[0].id, False)


def test_a_cancel_is_kept_for_an_event_that_comes_later_and_is_too_late_for_one_that_is_done(
    journal: Journal,
) -> None:
    early, late = event(), event()
    assert journal.cancel(early.id, "not wanted")
    acceptance, record = journal.accept(early, QUEUE)
    assert (acceptance, record.cancel_reason) == (Acceptance.OWNED, "not wanted")
    _, mine = journal.accept(late, QUEUE)
    journal.finish(mine, Outcome.OK, done(late))
    assert not journal.cancel(late.id, "not wanted")


def test_only_old_events_that_have_ended_and_are_answered_are_forgotten(journal: Journal, database: Database) -> None:
    ended, unsent, running = event(), event(), event()
    for one in (ended, unsent):
        stored = journal.finish(journal.accept(one, QUEUE)[1], Outcome.OK, done(one))
        if one is ended:
            journal.replied(stored, delivered=True)
    journal.accept(running, QUEUE)
    assert journal.forget(1) == 0
    database.run(
        lambda cursor: cursor.execute(
            "UPDATE esxprov_event SET received_at = '2020-01-01', finished_at = IF(state = 'done', '2020-01-01', NULL)"
        )
    )
    assert journal.forget(1) == 1
    assert journal.accept(ended, QUEUE)[0] is Acceptance.OWNED


def test_an_event_is_stored_as_it_came(journal: Journal, other: Journal, database: Database) -> None:
    load = replace(event(), id=str(uuid.uuid4()), extensions={"x": "é€𝄞"}, correlationid="request/1")
    journal.accept(load, QUEUE)
    age(database, load)
    (taken,) = other.recover(1)
    assert taken.event == load


def test_computers_are_busy_while_an_event_about_them_is_unfinished(journal: Journal, other: Journal) -> None:
    first, second = event(computer=7), event("unload", computer=8)
    _, record = journal.accept(first, QUEUE)
    journal.accept(second, QUEUE)
    assert other.busy_computers() == {7, 8}
    journal.finish(record, Outcome.OK, done(first))
    assert other.busy_computers() == {8}
