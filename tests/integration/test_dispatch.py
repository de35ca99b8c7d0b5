"""The rules of dispatching, with handlers made up for the test, on a real journal: no broker, no hypervisor."""

from __future__ import annotations

import threading
import time
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


def blocked(until: threading.Event) -> Callable[[Job, Any], dict[str, Any]]:
    """A handler that works until told, or until its job shall stop, and not for ever."""

    def work(job: Job, tools: Any) -> dict[str, Any]:
        give_up = time.monotonic() + 3 * SOON_S
        while not until.wait(0.05) and time.monotonic() < give_up:
            job.check()
        return {}

    return work


def test_a_command_that_waits_for_a_worker_is_kept_alive(start: Start, database: Database) -> None:
    released = threading.Event()
    service = start({"power_off": Handler(blocked(released))}, fast=1)
    commands = [event("power_off", computer) for computer in range(1, 6)]
    for command in commands:
        service.fast(command)
    wait_for(lambda: len(service.sent.settled) == len(commands))
    for command in commands:
        abandon(database, command)
    service.dispatcher.renew()
    assert Journal(database, "another").recover(10) == []
    released.set()
    assert all(service.sent.reply(command)["outcome"] == "ok" for command in commands)


def test_an_event_taken_over_by_its_own_service_stops_the_run_that_lost_it_and_no_other(
    start: Start, database: Database
) -> None:
    runs: list[Job] = []
    began = threading.Semaphore(0)
    released = threading.Event()

    def work(job: Job, tools: Any) -> dict[str, Any]:
        runs.append(job)
        began.release()
        return blocked(released)(job, tools)

    service = start({"load": Handler(work)})
    load = event("load")
    service.slow(load)
    assert began.acquire(timeout=SOON_S)
    abandon(database, load)
    service.slow(load)
    assert began.acquire(timeout=SOON_S)
    wait_for(runs[0].interrupted)
    abandon(database, load)
    wait_for(lambda: renewed(service, database, load))
    assert not runs[1].interrupted()
    released.set()
    assert service.sent.reply(load)["outcome"] == "ok"


def renewed(service: Service, database: Database, of: Event) -> bool:
    service.dispatcher.renew()
    row = database.run(lambda cursor: _owned(cursor, of))
    return bool(row)


def _owned(cursor: Any, of: Event) -> bool:
    cursor.execute("SELECT owned_until > UTC_TIMESTAMP(6) AS owned FROM esxprov_event WHERE id = %s", (of.id,))
    return bool(cursor.fetchone()["owned"])


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def test_a_command_that_waits_for_an_abandoned_one_takes_it_over_also_when_all_workers_wait(
    start: Start, database: Database
) -> None:
    """A service died over a load; the next one is given the computer's unload before it looks for what was left."""
    load, unload = event("load"), event("unload")
    Journal(database, "dead").accept(load, "vcl.reply.mn1.5")
    abandon(database, load)
    order: list[str] = []

    def note(job: Job, tools: Any) -> dict[str, Any]:
        order.append(job.event.call)
        return {}

    def take_back(job: Job, tools: Any) -> None:
        order.append(job.event.call)

    service = start({"load": Handler(done, take_back), "unload": Handler(note)}, slow=1)
    service.slow(unload)
    assert service.sent.reply(unload)["outcome"] == "ok"
    assert service.sent.reply(load)["outcome"] == "cancelled"
    assert order == ["load", "unload"]


def test_the_slow_lane_is_resumed_only_when_there_is_room_again(start: Start, database: Database) -> None:
    released = threading.Event()
    service = start({"load": Handler(done), "capture": Handler(blocked(released))}, slow=1)
    left, capture = event("load", 1), event("capture", 2)
    service.slow(capture)
    wait_for(lambda: (Lane.SLOW, "full") in service.sent.paused)
    service.slow(left)
    assert service.sent.reply(left)["outcome"] == "ok"
    assert (Lane.SLOW, "full") in service.sent.paused
    released.set()
    wait_for(lambda: (Lane.SLOW, "full") not in service.sent.paused)


def test_a_question_is_answered_while_power_commands_wait(start: Start) -> None:
    began, released = threading.Event(), threading.Event()

    def work(job: Job, tools: Any) -> dict[str, Any]:
        began.set()
        return blocked(released)(job, tools)

    service = start({"power_on": Handler(work)}, fast=1)
    commands = [event("power_on", computer) for computer in range(1, 5)]
    for command in commands:
        service.fast(command)
    assert began.wait(SOON_S)
    ping = event("ping")
    service.fast(ping)
    assert service.sent.reply(ping)["outcome"] == "ok"
    released.set()
    assert all(service.sent.reply(command)["outcome"] == "ok" for command in commands)


def test_a_command_that_comes_while_the_service_ends_goes_back_to_its_queue(start: Start) -> None:
    """It was on its way to a worker when the service was told to end."""
    jobs: list[Job] = []
    began, released = threading.Event(), threading.Event()

    def load(job: Job, tools: Any) -> dict[str, Any]:
        jobs.append(job)
        return blocked(threading.Event())(job, tools)

    def ask(job: Job, tools: Any) -> dict[str, Any]:
        began.set()
        released.wait(SOON_S)
        return {}

    handlers = {"load": Handler(load), "power_status": Handler(ask), "power_off": Handler(done)}
    service = start(handlers, fast=1)
    service.slow(event("load", 1))
    wait_for(lambda: bool(jobs))
    service.fast(event("power_status"))
    service.fast(event("power_off"))
    assert began.wait(SOON_S)
    ending = threading.Thread(target=service.dispatcher.stop)
    ending.start()
    wait_for(jobs[0].interrupted)
    released.set()
    ending.join(SOON_S)
    assert (service.sent.settled, service.sent.parked) == (["ack", "ack", "requeue"], [])


@pytest.mark.parametrize("call", ["load", "place"])
def test_an_error_with_more_details_than_a_message_holds_is_told_without_them(start: Start, call: str) -> None:
    refused = {f"host{number}": "no room: " + 200 * "x" for number in range(2000)}

    def refuse(job: Job, tools: Any) -> dict[str, Any]:
        raise ProvisioningError("no_capacity", f"no host: {refused}", detail={"refused": refused})

    service = start({call: Handler(refuse)})
    asked = event(call)
    (service.fast if call == "place" else service.slow)(asked)
    error = service.sent.reply(asked)["error"]
    assert (error["code"], error["message"][:8], error["detail"]) == ("no_capacity", "no host:", {})


def test_an_answer_that_no_message_holds_is_an_error(start: Start) -> None:
    service = start({"capacity": Handler(lambda job, tools: {"hosts": ["esx" + 300 * "x"] * 1000})})
    asked = event("capacity")
    service.fast(asked)
    assert "ask for less" in service.sent.reply(asked)["error"]["message"]
