"""Looking at the journal without touching it: what `esxprov events` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

from esxprov.database import Cursor, Database, rows


class History:
    """Rows of esxprov_event as plain data: times in ISO 8601 UTC, JSON columns decoded."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def show(self, event_id: str) -> dict[str, Any] | None:
        """One row as plain data, None if there is no such event."""

        def ask(cursor: Cursor) -> dict[str, Any] | None:
            cursor.execute("SELECT * FROM esxprov_event WHERE id = %s", (event_id,))
            row = cursor.fetchone()
            return _plain(row) if row else None

        return self._database.single(ask)

    def newest(
        self,
        *,
        limit: int = 50,
        state: str | None = None,
        outcome: str | None = None,
        computer: int | None = None,
        reservation: int | None = None,
    ) -> list[dict[str, Any]]:
        """The newest rows, without their large columns, but with the computer's name and the code of the error."""

        def ask(cursor: Cursor) -> list[dict[str, Any]]:
            cursor.execute(
                "SELECT id, call_name, computer_id, JSON_VALUE(envelope, '$.data.computer.name') AS computer, "
                "reservation_id, state, outcome, JSON_VALUE(reply, '$.data.error.code') AS error, step, epoch, "
                "attempts, owner, reply_state, received_at, finished_at, cancel_reason FROM esxprov_event "
                "WHERE (%s IS NULL OR state = %s) AND (%s IS NULL OR outcome = %s) "
                "AND (%s IS NULL OR computer_id = %s) AND (%s IS NULL OR reservation_id = %s) "
                "ORDER BY seq DESC LIMIT %s",
                (state, state, outcome, outcome, computer, computer, reservation, reservation, limit),
            )
            return [_plain(row) for row in rows(cursor)]

        return self._database.single(ask)

    def export(self, *, since: datetime | None = None, page: int = 200) -> Iterator[dict[str, Any]]:
        """Every row, oldest first, in pages: memory does not grow with the journal."""
        last = 0
        while True:
            found = self._database.single(partial(self._page, last=last, since=since, page=page))
            yield from (_plain(row) for row in found)
            if len(found) < page:
                return
            last = found[-1]["seq"]

    @staticmethod
    def _page(cursor: Cursor, last: int, since: datetime | None, page: int) -> list[dict[str, Any]]:
        cursor.execute(
            "SELECT * FROM esxprov_event WHERE seq > %s AND (%s IS NULL OR received_at >= %s) ORDER BY seq LIMIT %s",
            (last, since, since, page),
        )
        return rows(cursor)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    shown = {}
    for name, value in row.items():
        if isinstance(value, datetime):
            shown[name] = value.isoformat() + "Z"
        elif name in ("envelope", "steps", "reply", "decision") and value:
            shown[name] = json.loads(value)
        else:
            shown[name] = value
    return shown
