"""The rules of dispatching, with handlers made up for the test, on a real journal: no broker, no hypervisor."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from bridge.contract import Lane
from bridge.envelope import Event, decode, encode, request
from bridge.message import Delivery
from esxprov import schema
from esxprov.clock import SystemClock
from esxprov.database import Database, DatabaseConfig
from esxprov.dispatch import Dispatcher, Limits
from esxprov.errors import DependencyUnavailable, ProvisioningError
from esxprov.handlers import Handler
from esxprov.job import Job
from esxprov.journal import Journal, Record
from tests.testbed.mariadb import PASSWORD, MariaDb

SOON_S = 10
"""For what happens at once: long enough for a busy machine, and far below any deadline."""


class Sent:
    """The outbox and the lanes of a service: remembers what went where."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.replies: dict[str, dict[str, Any]] = {}
        self.parked: list[str] = []
        self.settled: list[str] = []
        self.paused: set[tuple[Lane, str]] = set()

    def _put(self, event_id: str | None, reply: Event) -> None:
        with self._changed:
            self.replies[event_id or ""] = reply.data
            self._changed.notify_all()

    def send(self, record: Record) -> bool:
        assert record.reply is not None
        self._put(record.event.id, decode(record.reply))
        return True

    def answer(self, reply: Event, reply_to: str | None) -> None:
        encode(reply)
        self._put(reply.causationid, reply)

    def progress(self, cause: Event, reply_to: str | None, sequence: int, **note: Any) -> None: ...

    def park(self, delivery: Delivery, reason: str) -> None:
        self.parked.append(reason)

    def ack(self, delivery: Delivery) -> None:
        self.settled.append("ack")

    def requeue(self, delivery: Delivery) -> None:
        self.settled.append("requeue")

    def pause(self, lane: Lane, reason: str) -> None:
        self.paused.add((lane, reason))

    def resume(self, lane: Lane, reason: str) -> None:
        self.paused.discard((lane, reason))

    def reply(self, event: Event, timeout_s: float = SOON_S) -> dict[str, Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: event.id in self.replies, timeout_s), f"no reply to {event.call}"
            return self.replies[event.id]


class Service:
    """A dispatcher among fakes."""

    def __init__(self, database: Database, handlers: Mapping[str, Handler], *, slow: int = 2, fast: int = 2) -> None:
        self.journal = Journal(database, str(uuid.uuid4()))
        self.sent = Sent()
        self.dispatcher = Dispatcher(
            journal=self.journal,
            handlers=handlers,
            tools=cast(Any, None),
            outbox=cast(Any, self.sent),
            lanes=cast(Any, self.sent),
            clock=SystemClock(),
            limits=Limits(slow, fast, frozenset({"vcld"})),
            about_us={},
        )

    def slow(self, event: Event) -> None:
        self.dispatcher.deliver_slow(_delivery(event))

    def fast(self, event: Event) -> None:
        self.dispatcher.deliver_fast(_delivery(event))


def _delivery(event: Event) -> Delivery:
    return Delivery(encode(event), event.call, False, 1, 1, user_id="vcld", reply_to="vcl.reply.mn1.5")


@pytest.fixture
def database(mariadb: MariaDb) -> Iterator[Database]:
    config = DatabaseConfig(unix_socket=str(mariadb.socket), user="esxprov", password=PASSWORD, name="vcl")
    opened = Database(config)
    schema.upgrade(opened)
    opened.run(lambda cursor: cursor.execute("DELETE FROM esxprov_event"))
    yield opened
    opened.close()


Start = Callable[..., Service]


@pytest.fixture
def start(database: Database) -> Iterator[Start]:
    """Starts services, which are ended after the test."""
    started: list[Service] = []

    def begin(handlers: Mapping[str, Handler], **options: int) -> Service:
        started.append(Service(database, handlers, **options))
        return started[-1]

    yield begin
    for service in started:
        service.dispatcher.stop()


def event(call: str, computer: int = 7, **options: Any) -> Event:
    data = {"computer": {"id": computer, "name": f"vm{computer}"}}
    return request(call, source="urn:test", now=datetime.now(UTC), data=data, **options)


def abandon(database: Database, of: Event) -> None:
    """Its owner has been silent for too long."""
    database.run(
        lambda cursor: cursor.execute(
            "UPDATE esxprov_event SET owned_until = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND WHERE id = %s", (of.id,)
        )
    )


def done(job: Job, tools: Any) -> dict[str, Any]:
    return {}


def test_a_handler_that_fails_in_a_way_nobody_foresaw_is_taken_back(start: Start) -> None:
    taken_back = threading.Event()

    def stumble(job: Job, tools: Any) -> dict[str, Any]:
        raise KeyError("claim")

    service = start({"load": Handler(stumble, lambda job, tools: taken_back.set())})
    load = event("load")
    service.slow(load)
    assert service.sent.reply(load)["error"]["code"] == "internal"
    assert taken_back.is_set()


def test_a_command_that_cannot_be_taken_back_for_want_of_the_database_is_not_at_its_end(
    start: Start, database: Database
) -> None:
    tries: list[str] = []
    tried = threading.Event()

    def fail(job: Job, tools: Any) -> dict[str, Any]:
        raise ProvisioningError("ip_not_seen", "no lease")

    def take_back(job: Job, tools: Any) -> None:
        tries.append(job.event.id)
        if len(tries) == 1:
            tried.set()
            raise DependencyUnavailable("the database is away")

    handlers = {"load": Handler(fail, take_back)}
    first, load = start(handlers), event("load")
    first.slow(load)
    assert tried.wait(SOON_S)
    first.dispatcher.stop()
    abandon(database, load)
    second = start(handlers)
    second.dispatcher.recover()
    assert second.sent.reply(load)["error"]["code"] == "ip_not_seen"
    assert len(tries) == 2
