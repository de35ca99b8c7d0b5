"""Looking at all servers of a bed for what nobody owns: the books must be empty when all work is done."""

from __future__ import annotations

import time
from typing import Any

import pika

from bridge.topology import DEAD
from tests.testbed.bed import Bed

_MARKED_S = 5


def leftovers(bed: Bed) -> list[str]:
    """One sentence for each thing that is left; empty if every VM was unloaded and every event has ended."""
    return [*_vms(bed), *_directories(bed), *_rows(bed), *_spool(bed), *_parked(bed)]


def _vms(bed: Bed) -> list[str]:
    return [f"VM {vm['name']} on {name}" for name, server in bed.endpoints.items() for vm in server.inventory()["vms"]]


def _directories(bed: Bed) -> list[str]:
    in_use = sorted(path.name for path in (bed.store / "inuse").glob("*"))
    unfinished = sorted(path.name for path in (bed.store / "golden").glob(".*"))
    return [f"directory inuse/{name}" for name in in_use] + [f"unfinished image golden/{name}" for name in unfinished]


def _rows(bed: Bed) -> list[str]:
    questions = (
        "SELECT CONCAT('claim of computer ', computer_id, ', ', state) AS what FROM esxprov_claim "
        "WHERE state <> 'released'",
        "SELECT CONCAT(used_ram_mb, ' MB and ', used_cpus, ' vCPUs promised on ', endpoint, '/', moid) AS what "
        "FROM esxprov_host WHERE used_ram_mb <> 0 OR used_cpus <> 0",
        "SELECT CONCAT('work on image ', image, ' by event ', event_id) AS what FROM esxprov_image_work",
        "SELECT CONCAT('event ', id, ' (', call_name, ') is ', state, ', its reply ', reply_state) AS what "
        "FROM esxprov_event WHERE state = 'running' OR reply_state = 'unsent'",
    )
    found = []
    with bed.mariadb.connect() as connection, connection.cursor() as cursor:
        _let_replies_be_marked(cursor)
        for sql in questions:
            cursor.execute(sql)
            found += [str(row["what"]) for row in cursor.fetchall()]
    return found


def _let_replies_be_marked(cursor: Any) -> None:
    """Whoever waits for a reply has it a moment before it is marked as sent."""
    deadline = time.monotonic() + _MARKED_S
    while time.monotonic() < deadline:
        if not cursor.execute("SELECT id FROM esxprov_event WHERE state <> 'running' AND reply_state = 'unsent'"):
            return
        cursor.connection.commit()
        time.sleep(0.01)


def _spool(bed: Bed) -> list[str]:
    return [f"spool file {path.name}" for path in sorted(bed.spool.glob("*"))]


def _parked(bed: Bed) -> list[str]:
    credentials = pika.PlainCredentials("onlooker", bed.rabbitmq.password("onlooker"))
    parameters = pika.ConnectionParameters(bed.rabbitmq.host, bed.rabbitmq.port, credentials=credentials)
    with pika.BlockingConnection(parameters) as connection:
        count = connection.channel().queue_declare(DEAD, passive=True).method.message_count
    return [f"{count} parked message(s)"] if count else []
