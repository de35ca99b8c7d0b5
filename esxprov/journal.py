"""The table esxprov_event: accept, own, step, finish, recover. One statement per method, one transaction per verb.

Whoever owns an event holds its `epoch`; every later write says `WHERE seq = ? AND epoch = ?`, so a service that was
paused and overtaken finds that its writes change nothing. Ownership is compared with the database's clock only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from bridge.contract import CALLS, Call, Outcome
from bridge.envelope import Event, decode, encode
from esxprov.database import Cursor, Database, rows
from esxprov.errors import OwnershipLost
from esxprov.request import computer_id, reservation_id

OWNERSHIP_S = 30
"""How long an event stays ours without a sign of life."""

RENEW_S = OWNERSHIP_S / 3

MAX_TAKEOVERS = 3
"""An event that outlived this many services is what kills them: it is failed instead of taken over again."""

_NEXT_OWNER = f"UTC_TIMESTAMP(6) + INTERVAL {OWNERSHIP_S} SECOND"


class Acceptance(StrEnum):
    """What to do with a delivered command."""

    OWNED = "owned"  # new, or abandoned by its owner: work on it
    BUSY = "busy"  # somebody works on it: drop the delivery
    DONE = "done"  # finished earlier: publish the stored reply again


@dataclass(frozen=True, slots=True)
class Record:
    """An event in the journal. `epoch` is the fencing token of whoever read it as owned."""

    seq: int
    event: Event
    epoch: int
    reply_to: str | None
    steps: dict[str, Any]
    attempts: int = 1
    takeovers: int = 0
    cancel_reason: str | None = None
    reply: bytes | None = None


class Journal:
    """The journal as one service instance sees it. `owner` names that instance and is new at every start."""

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self.owner = owner

    # --- accept -----------------------------------------------------------------------------------------------------

    def accept(self, event: Event, reply_to: str | None) -> tuple[Acceptance, Record]:
        """Insert the event, or find out why it is here already. After this returns the delivery may be acknowledged."""
        return self._database.run(lambda cursor: self._accept(cursor, event, reply_to))

    def _accept(self, cursor: Cursor, event: Event, reply_to: str | None) -> tuple[Acceptance, Record]:
        inserted = cursor.execute(
            "INSERT IGNORE INTO esxprov_event (id, call_name, computer_id, reservation_id, envelope, reply_to, state, "
            f"steps, owner, owned_until, received_at) VALUES (%s,%s,%s,%s,%s,%s,'running','{{}}',%s,{_NEXT_OWNER},"
            "UTC_TIMESTAMP(6))",
            (
                event.id,
                event.call,
                computer_id(event),
                reservation_id(event),
                encode(event).decode(),
                reply_to,
                self.owner,
            ),
        )
        if inserted:
            seq = int(cursor.lastrowid)
            self._supersede(cursor, event, seq)
            return Acceptance.OWNED, Record(seq, event, 1, reply_to, {})
        cursor.execute(
            "SELECT *, owned_until IS NULL OR owned_until < UTC_TIMESTAMP(6) AS abandoned FROM esxprov_event "
            "WHERE id = %s FOR UPDATE",
            (event.id,),
        )
        row = cursor.fetchone()
        assert row is not None, "the row that INSERT IGNORE ran into is locked by nobody and deleted by nobody"
        if row["state"] == "cancelled":
            cursor.execute(
                "UPDATE esxprov_event SET state = 'running', envelope = %s, reply_to = %s, computer_id = %s, "
                f"reservation_id = %s, call_name = %s, owner = %s, owned_until = {_NEXT_OWNER} WHERE seq = %s",
                (
                    encode(event).decode(),
                    reply_to,
                    computer_id(event),
                    reservation_id(event),
                    event.call,
                    self.owner,
                    row["seq"],
                ),
            )
            return Acceptance.OWNED, Record(
                row["seq"], event, row["epoch"], reply_to, {}, cancel_reason=row["cancel_reason"]
            )
        if reply_to is not None and reply_to != row["reply_to"]:
            # Whoever asks again may have lost the queue it asked from before.
            cursor.execute("UPDATE esxprov_event SET reply_to = %s WHERE seq = %s", (reply_to, row["seq"]))
            row["reply_to"] = reply_to
        if row["state"] == "done":
            return Acceptance.DONE, _record(row)
        if row["abandoned"]:
            return Acceptance.OWNED, self._take_over(cursor, row)
        return Acceptance.BUSY, _record(row)

    @staticmethod
    def _supersede(cursor: Cursor, event: Event, seq: int) -> None:
        """A newer load or unload of a computer makes its older ones pointless: ask them to stop."""
        computer = computer_id(event)
        if computer is None or not CALLS[event.call].replaces:
            return
        cursor.execute(
            "UPDATE esxprov_event SET cancel_reason = %s WHERE computer_id = %s AND state = 'running' AND seq < %s "
            f"AND cancel_reason IS NULL AND call_name IN ({_quoted(c for c in CALLS.values() if c.replaceable)})",
            (f"superseded by the newer {event.call} {event.id}", computer, seq),
        )

    def _take_over(self, cursor: Cursor, row: dict[str, Any]) -> Record:
        released = row["owner"] is None
        cursor.execute(
            f"UPDATE esxprov_event SET epoch = epoch + 1, owner = %s, owned_until = {_NEXT_OWNER}, "
            "takeovers = takeovers + %s, attempts = attempts + 1 WHERE seq = %s",
            (self.owner, 0 if released else 1, row["seq"]),
        )
        return _record(
            {
                **row,
                "epoch": row["epoch"] + 1,
                "takeovers": row["takeovers"] + (0 if released else 1),
                "attempts": row["attempts"] + 1,
            }
        )

    def give_up(self, is_dead: Callable[[str], bool]) -> None:
        """End the ownership of services that are known to be dead, rather than wait until it runs out."""

        def write(cursor: Cursor) -> None:
            cursor.execute(
                "SELECT DISTINCT owner FROM esxprov_event WHERE (state = 'running' OR reply_state = 'unsent') "
                "AND owner IS NOT NULL AND owned_until IS NOT NULL"
            )
            for owner in [str(row["owner"]) for row in rows(cursor)]:
                if is_dead(owner):
                    cursor.execute(
                        "UPDATE esxprov_event SET owned_until = NULL "
                        "WHERE owner = %s AND (state = 'running' OR reply_state = 'unsent')",
                        (owner,),
                    )

        self._database.run(write)

    def recover(self, limit: int, before: Record | None = None) -> list[Record]:
        """Take over up to `limit` events whose owner is gone (or gave them up at its end), oldest first; with `before`
        only those of its computer that came before it.
        """
        which: str = "TRUE"
        values: tuple[Any, ...] = ()
        if before is not None:
            which, values = "computer_id = %s AND seq < %s", (computer_id(before.event), before.seq)

        def take(cursor: Cursor) -> list[Record]:
            cursor.execute(
                "SELECT * FROM esxprov_event WHERE state = 'running' AND (owned_until IS NULL OR "
                f"owned_until < UTC_TIMESTAMP(6)) AND {which} ORDER BY seq LIMIT %s FOR UPDATE",
                (*values, limit),
            )
            return [self._take_over(cursor, row) for row in rows(cursor)]

        return self._database.run(take) if limit > 0 else []

    # --- while it is ours -------------------------------------------------------------------------------------------

    def renew(self, records: Iterable[Record]) -> dict[int, str | None]:
        """A sign of life for all of them. Returns seq -> cancel reason (or None) of those that still are ours."""
        held = {record.seq: record.epoch for record in records}
        if not held:
            return {}

        def write(cursor: Cursor) -> dict[int, str | None]:
            places = ",".join(["(%s,%s)"] * len(held))
            flat = [value for pair in held.items() for value in pair]
            cursor.execute(
                f"UPDATE esxprov_event SET owned_until = {_NEXT_OWNER} "
                f"WHERE state = 'running' AND (seq, epoch) IN ({places})",
                flat,
            )
            cursor.execute(
                f"SELECT seq, cancel_reason FROM esxprov_event WHERE state = 'running' AND (seq, epoch) IN ({places})",
                flat,
            )
            return {int(row["seq"]): row["cancel_reason"] for row in rows(cursor)}

        return self._database.run(write)

    def step(self, record: Record, name: str, steps: dict[str, Any], decision: dict[str, Any] | None = None) -> None:
        """Where the work is now and what its finished steps found out. Raises OwnershipLost.

        `decision` is the placement's input and answer, so that it can be decided again later; None keeps the last one.
        """
        decided = None if decision is None else json.dumps(decision)
        self._owned(
            "UPDATE esxprov_event SET step = %s, steps = %s, decision = COALESCE(%s, decision) "
            "WHERE seq = %s AND epoch = %s AND state = 'running'",
            (name, json.dumps(steps), decided, record.seq, record.epoch),
        )

    def retried(self, record: Record, attempts: int) -> None:
        """How often the handler has been started. Raises OwnershipLost."""
        self._owned(
            "UPDATE esxprov_event SET attempts = %s WHERE seq = %s AND epoch = %s AND state = 'running'",
            (attempts, record.seq, record.epoch),
        )

    def release(self, record: Record) -> None:
        """Give the event up without an outcome, at the end of the service: the next one takes it over at once."""
        self._owned(
            "UPDATE esxprov_event SET owner = NULL, owned_until = NULL "
            "WHERE seq = %s AND epoch = %s AND state = 'running'",
            (record.seq, record.epoch),
        )

    def older_running(self, record: Record) -> tuple[str, bool] | None:
        """The id of the oldest unfinished event of the same computer before this one, and whether nobody works on it;
        None if it is this one's turn.
        """
        computer = computer_id(record.event)
        if computer is None:
            return None

        def ask(cursor: Cursor) -> tuple[str, bool] | None:
            cursor.execute(
                "SELECT id, owned_until IS NULL OR owned_until < UTC_TIMESTAMP(6) AS abandoned FROM esxprov_event "
                "WHERE computer_id = %s AND state = 'running' AND seq < %s ORDER BY seq LIMIT 1",
                (computer, record.seq),
            )
            row = cursor.fetchone()
            return (str(row["id"]), bool(row["abandoned"])) if row else None

        return self._database.single(ask)

    def busy_computers(self) -> set[int]:
        """Those that an unfinished event is about, whoever works on it."""

        def ask(cursor: Cursor) -> set[int]:
            cursor.execute(
                "SELECT DISTINCT computer_id FROM esxprov_event WHERE state = 'running' AND computer_id IS NOT NULL"
            )
            return {int(row["computer_id"]) for row in rows(cursor)}

        return self._database.single(ask)

    def _owned(self, statement: str, values: tuple[Any, ...]) -> None:
        def write(cursor: Cursor) -> None:
            # PyMySQL counts found rows, so an UPDATE that changes nothing still tells whose event it is.
            if cursor.execute(statement, values) == 0:
                raise OwnershipLost

        self._database.single(write)

    # --- the end ----------------------------------------------------------------------------------------------------

    def finish(self, record: Record, outcome: Outcome, reply: Event) -> Record:
        """Store the outcome; only then may the reply be published. Returns the record with it. Raises OwnershipLost."""
        body = encode(reply)
        self._owned(
            "UPDATE esxprov_event SET state = 'done', outcome = %s, reply = %s, reply_state = %s, "
            f"finished_at = UTC_TIMESTAMP(6), owned_until = {_NEXT_OWNER} "
            "WHERE seq = %s AND epoch = %s AND state = 'running'",
            (outcome.value, body.decode(), "unsent" if record.reply_to else "none", record.seq, record.epoch),
        )
        return replace(record, reply=body)

    def replied(self, record: Record, *, delivered: bool) -> None:
        """The reply is in its queue, or there is no such queue any more."""
        state = "sent" if delivered else "undeliverable"
        self._database.single(
            lambda cursor: cursor.execute(
                "UPDATE esxprov_event SET reply_state = %s, reply_sent_at = UTC_TIMESTAMP(6) WHERE seq = %s",
                (state, record.seq),
            )
        )

    def unsent(self, limit: int = 100) -> list[Record]:
        """Outcomes whose reply was not published: ours, or of a service that is gone."""

        def take(cursor: Cursor) -> list[Record]:
            cursor.execute(
                "SELECT * FROM esxprov_event WHERE reply_state = 'unsent' AND (owner = %s OR owned_until IS NULL OR "
                "owned_until < UTC_TIMESTAMP(6)) ORDER BY seq LIMIT %s",
                (self.owner, limit),
            )
            return [_record(row) for row in rows(cursor)]

        return self._database.single(take)

    def cancel(self, event_id: str, reason: str) -> bool:
        """Ask for the end of an event; one not seen yet is remembered, so that it is cancelled on arrival.

        False if the event is finished already.
        """

        def write(cursor: Cursor) -> bool:
            cursor.execute(
                "INSERT IGNORE INTO esxprov_event (id, call_name, state, steps, cancel_reason, received_at) "
                "VALUES (%s, '', 'cancelled', '{}', %s, UTC_TIMESTAMP(6))",
                (event_id, reason[:255]),
            )
            if cursor.rowcount:
                return True
            changed = cursor.execute(
                "UPDATE esxprov_event SET cancel_reason = COALESCE(cancel_reason, %s) "
                "WHERE id = %s AND state <> 'done'",
                (reason[:255], event_id),
            )
            return bool(changed)

        return self._database.run(write)

    def ping(self) -> None:
        """Raises DependencyUnavailable while the database does not answer."""
        self._database.single(lambda cursor: cursor.execute("SELECT 1"))

    def forget(self, days: int, limit: int = 1000) -> int:
        """Delete up to `limit` events that ended more than `days` days ago; returns how many."""
        return self._database.single(
            lambda cursor: cursor.execute(
                "DELETE FROM esxprov_event WHERE state <> 'running' AND "
                "COALESCE(finished_at, received_at) < UTC_TIMESTAMP() - INTERVAL %s DAY "
                "AND reply_state <> 'unsent' LIMIT %s",
                (days, limit),
            )
        )


def _quoted(calls: Iterable[Call]) -> str:
    return ",".join(f"'{call.name}'" for call in calls)


def _record(row: dict[str, Any]) -> Record:
    return Record(
        seq=int(row["seq"]),
        event=decode(row["envelope"].encode()),
        epoch=int(row["epoch"]),
        reply_to=row["reply_to"],
        steps=json.loads(row["steps"]),
        attempts=int(row["attempts"]),
        takeovers=int(row["takeovers"]),
        cancel_reason=row["cancel_reason"],
        reply=row["reply"].encode() if row["reply"] else None,
    )
