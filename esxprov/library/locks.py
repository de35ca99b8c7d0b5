"""The lock of an image on a datastore: one event at a time makes it, brings it or deletes it.

It has no lease of its own: a row counts as long as its event is running, and the journal says who works on that. The
lock only saves work. What keeps the library whole is that each event writes into a directory of its own, and that the
rename at its end never overwrites; so whoever sees that nobody works on an event may take its row over.
"""

from __future__ import annotations

from typing import Any

from esxprov.database import Cursor, Database, rows
from esxprov.model import ImageWork
from esxprov.ports import Busy

_COLUMNS = "work.datastore, work.image, work.event_id, work.purpose, work.pool, work.path, work.needed_mb"

_WITH_EVENT = "esxprov_image_work AS work LEFT JOIN esxprov_event AS event ON event.id = work.event_id"

_LIVE = "COALESCE(event.state = 'running', FALSE) OR COALESCE(work.held_until > UTC_TIMESTAMP(6), FALSE)"

_UNOWNED = (
    "event.state = 'running' AND (event.owned_until IS NULL OR event.owned_until < UTC_TIMESTAMP(6)) "
    "AND COALESCE(work.held_until < UTC_TIMESTAMP(6), TRUE)"
)


class ImageLocks:
    """The table of them, shared by all services (ports.ImageLocks). Only the database's clock counts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, work: ImageWork, *, held_s: int | None = None, over: str | None = None) -> Busy | None:
        """None: the image is `work.event_id`'s, also if it was so already. Otherwise who has it.

        `over` takes it from that event, if it still has it and nobody works on it. `held_s` is for who has no event.
        """
        return self._database.run(lambda cursor: self._take(cursor, work, held_s, over))

    @staticmethod
    def _take(cursor: Cursor, work: ImageWork, held_s: int | None, over: str | None) -> Busy | None:
        until = "UTC_TIMESTAMP(6) + INTERVAL %s SECOND"  # of NULL is NULL
        mine = (work.event_id, work.purpose, work.pool, work.path, work.needed_mb, held_s)
        inserted = cursor.execute(
            "INSERT IGNORE INTO esxprov_image_work (datastore, image, event_id, purpose, pool, path, needed_mb, "
            f"held_until, taken_at) VALUES (%s, %s, %s, %s, %s, %s, %s, {until}, UTC_TIMESTAMP(6))",
            (work.datastore, work.image, *mine),
        )
        if inserted:
            return None
        cursor.execute(
            "SELECT event_id FROM esxprov_image_work WHERE datastore = %s AND image = %s FOR UPDATE",
            (work.datastore, work.image),
        )
        cursor.execute(
            f"SELECT {_COLUMNS}, {_LIVE} AS live, COALESCE({_UNOWNED}, FALSE) AS unowned FROM {_WITH_EVENT} "
            "WHERE work.datastore = %s AND work.image = %s",
            (work.datastore, work.image),
        )
        row = cursor.fetchone()
        if row is None:
            # Given back between the two statements; whoever asks again finds it free.
            return Busy(work, is_abandoned=False, has_ended=True)
        holder = _work(row)
        if holder.event_id != work.event_id and not (holder.event_id == over and row["unowned"]):
            return Busy(holder, is_abandoned=bool(row["unowned"]), has_ended=not row["live"])
        cursor.execute(
            "UPDATE esxprov_image_work SET event_id = %s, purpose = %s, pool = %s, path = %s, needed_mb = %s, "
            f"held_until = {until}, taken_at = UTC_TIMESTAMP(6) WHERE datastore = %s AND image = %s",
            (*mine, work.datastore, work.image),
        )
        return None

    def done(self, work: ImageWork) -> None:
        """Give the image back, and no longer remember `work.path`. Not ours any more is fine."""
        self._database.single(
            lambda cursor: cursor.execute(
                "DELETE FROM esxprov_image_work WHERE datastore = %s AND image = %s AND event_id = %s",
                (work.datastore, work.image, work.event_id),
            )
        )

    def stale(self) -> list[ImageWork]:
        """What nobody will finish: its event has ended, or is not known any more."""
        return self._ask(f"NOT ({_LIVE})")

    def of_datastore(self, datastore: str) -> list[ImageWork]:
        """All that is being written to the libraries on a datastore, in the order in which it was begun."""
        return self._ask("work.datastore = %s", datastore)

    def _ask(self, which: str, *values: str) -> list[ImageWork]:
        def ask(cursor: Cursor) -> list[ImageWork]:
            cursor.execute(
                f"SELECT {_COLUMNS} FROM {_WITH_EVENT} WHERE {which} ORDER BY work.taken_at, work.image", values
            )
            return [_work(row) for row in rows(cursor)]

        return self._database.single(ask)


def _work(row: dict[str, Any]) -> ImageWork:
    return ImageWork(
        datastore=row["datastore"],
        image=row["image"],
        event_id=row["event_id"],
        purpose=row["purpose"],
        pool=row["pool"],
        path=row["path"],
        needed_mb=int(row["needed_mb"]),
    )
