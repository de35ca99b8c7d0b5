"""What VCL's front end makes of our slots now. Only reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from esxprov.database import Cursor, rows
from esxprov.slots.rows import HOLDS, IDLE


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A slot as VCL has it. `shown`: `offered`, `loaded` (offered, too), `in use`, `closed` (too small for everything),
    `hidden` (by us), `admin` (in an admin's maintenance), or the name of another state. `problem`: why nobody gets it,
    and what to do; "" if all is well.
    """

    pool: str
    computer_id: int
    slot: str
    state: str
    host: str | None
    image: str | None
    ram_mb: int
    cpus: int
    shown: str
    problem: str


def statuses(cursor: Cursor) -> Iterator[SlotStatus]:
    """All our slots that are there, by pool and name."""
    cursor.execute(
        "SELECT s.pool, s.note, c.id, c.hostname, c.RAM, c.procnumber, c.vmhostid, c.notes, t.name AS state, "
        f"i.name AS image, h.hostname AS host, {IDLE} AS is_idle, "
        f"{HOLDS} AS holds "
        "FROM esxprov_slot s JOIN computer c ON c.id = s.computer_id AND c.hostname = s.hostname "
        "JOIN state t ON t.id = c.stateid JOIN image i ON i.id = c.currentimageid "
        "LEFT JOIN vmhost v ON v.id = c.vmhostid LEFT JOIN computer h ON h.id = v.computerid "
        "WHERE c.deleted = 0 ORDER BY s.pool, c.hostname"
    )
    for row in rows(cursor):
        shown, problem = _shown(row)
        yield SlotStatus(
            pool=row["pool"],
            computer_id=int(row["id"]),
            slot=row["hostname"],
            state=row["state"],
            host=row["host"],
            image=None if row["image"] == "noimage" else row["image"],
            ram_mb=int(row["RAM"]),
            cpus=int(row["procnumber"]),
            shown=shown,
            problem=problem,
        )


def _shown(row: dict[str, Any]) -> tuple[str, str]:
    state = row["state"]
    if state == "maintenance":
        if row["note"] is not None and row["note"] == row["notes"]:
            return "hidden", ""
        return "admin", "in maintenance: make it available on VCL's web page"
    if state == "failed":
        return "failed", f"see 'esxprov events list --computer {row['id']}', then make it available on VCL's web page"
    if not row["is_idle"]:
        return "in use", ""
    if state != "available":
        return state, f"in state {state}, and no reservation has it: make it available on VCL's web page"
    if row["vmhostid"] is None:
        return "closed", "it has no VM host: run 'esxprov slots sync'"
    if not row["RAM"]:
        return "closed", "to be removed: run 'esxprov slots prune', or sync to keep it"
    return ("loaded" if row["holds"] or row["image"] != "noimage" else "offered"), ""
