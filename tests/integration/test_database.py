"""What a real server does to a transaction, and what we make of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from esxprov.database import COMMIT, FAILS, Cursor, Database, DatabaseConfig, Statement, Unmet, matched, together
from esxprov.errors import DependencyUnavailable
from tests.testbed.mariadb import PASSWORD, MariaDb


@pytest.fixture
def database(mariadb: MariaDb) -> Iterator[Database]:
    config = DatabaseConfig(unix_socket=str(mariadb.socket), user="esxprov", password=PASSWORD, name="vcl")
    opened = Database(config)
    opened.run(lambda cursor: cursor.execute("CREATE OR REPLACE TABLE esxprov_test (id INT PRIMARY KEY, value INT)"))
    opened.run(lambda cursor: cursor.execute("INSERT INTO esxprov_test VALUES (1, 0)"))
    yield opened
    opened.run(lambda cursor: cursor.execute("DROP TABLE esxprov_test"))
    opened.close()


def increment(cursor: Cursor) -> int:
    return cursor.execute("UPDATE esxprov_test SET value = value + 1 WHERE id = 1")


def test_a_server_that_is_read_only_for_now_is_unavailable(mariadb: MariaDb, database: Database) -> None:
    mariadb.execute("SET GLOBAL read_only = 1")
    try:
        with pytest.raises(DependencyUnavailable, match=r"refuses user .*read-only"):
            database.run(increment)
    finally:
        mariadb.execute("SET GLOBAL read_only = 0")
    assert database.run(increment) == 1


def test_a_transaction_of_a_paused_service_does_not_hold_up_the_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esxprov.database._SILENT_S", 1)
    paused = Database(database.config)
    locked, goes_on = threading.Event(), threading.Event()
    outcome: list[Exception] = []

    def sleep(cursor: Cursor) -> None:
        increment(cursor)
        locked.set()
        goes_on.wait(30)
        increment(cursor)

    def late() -> None:
        try:
            paused.run(sleep)
        except DependencyUnavailable as error:
            outcome.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    assert locked.wait(10)
    assert database.run(increment) == 1
    goes_on.set()
    thread.join(10)
    assert len(outcome) == 1


INCREMENT = Statement("UPDATE esxprov_test SET value = value + %s WHERE id = %s", (1, 1))


def value(database: Database) -> int:
    def read(cursor: Cursor) -> int:
        cursor.execute("SELECT value FROM esxprov_test")
        row = cursor.fetchone()
        assert row is not None
        return int(row["value"])

    return database.single(read)


def test_statements_that_travel_together_are_answered_one_by_one(database: Database) -> None:
    lock = Statement("UPDATE esxprov_test SET value = LAST_INSERT_ID(value + 7)")
    read = Statement("SELECT value, '50 %%;' AS text FROM esxprov_test WHERE id = %s", (1,))
    answers = database.run(lambda cursor: together(cursor, [lock, read, COMMIT]), commits=True)
    assert [answer.last_id for answer in answers] == [7, 0, 0]
    assert [answer.rows for answer in answers] == [[], [{"value": 7, "text": "50 %;"}], []]


@pytest.mark.parametrize(
    "fails",
    [matched(2), Statement(f"UPDATE esxprov_test SET value = IF(value < 1, 5, {FAILS})")],
)
def test_a_commit_behind_a_statement_that_fails_is_not_done(database: Database, fails: Statement) -> None:
    with pytest.raises(Unmet):
        database.run(lambda cursor: together(cursor, [INCREMENT, fails, COMMIT]), commits=True)
    assert value(database) == 0


@pytest.mark.parametrize(
    "passes",
    [matched(1), Statement(f"UPDATE esxprov_test SET value = IF(value > 0, 1, {FAILS})")],
)
def test_a_condition_that_holds_lets_the_commit_be_done(database: Database, passes: Statement) -> None:
    database.run(lambda cursor: together(cursor, [INCREMENT, passes, COMMIT]), commits=True)
    assert value(database) == 1
