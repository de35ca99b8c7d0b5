"""`esxprov vcl register | unregister` on VCL's tables, in MariaDB's default SQL mode and in the web front end's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from esxprov.database import Database, DatabaseConfig
from esxprov.errors import ConfigurationError, DependencyUnavailable
from esxprov.install import vcl
from tests.testbed.mariadb import PASSWORD, MariaDb
from tests.testbed.vcl_rows import VclRows

TABLES = ("module", "provisioning", "provisioningOSinstalltype", "OSinstalltype", "computer")


@pytest.fixture(scope="module", params=[True, False], ids=["strict", "not strict"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    with MariaDb(tmp_path_factory.mktemp("vcl"), strict=request.param) as server:
        yield server


@pytest.fixture
def database(server: MariaDb) -> Iterator[Database]:
    """VCL's tables without our rows, before and after."""
    opened = Database(DatabaseConfig(unix_socket=str(server.socket), user="vcl", password=PASSWORD, name="vcl"))
    yield opened
    opened.close()
    server.execute(
        "DELETE FROM computer WHERE hostname LIKE 'registered%'; DELETE FROM provisioning WHERE name = 'esxprov'; "
        "DELETE FROM module WHERE name = 'provisioning_esxprov'"
    )


@pytest.fixture
def rows(server: MariaDb) -> Iterator[VclRows]:
    connection = server.connect()
    yield VclRows(connection)
    connection.close()


def content(rows: VclRows) -> list[object]:
    """Changes with every row of VCL's that could be touched."""
    return [rows.row(f"CHECKSUM TABLE {table}")["Checksum"] for table in TABLES]


def were_there(steps: list[vcl.Step]) -> list[bool]:
    return [step.was_there for step in steps]


def test_vcld_would_load_the_shim_for_images_of_vmware_once_it_is_registered(database: Database, rows: VclRows) -> None:
    assert were_there(vcl.register(database)) == [False, False, False]
    package = rows.value(
        "SELECT m.perlpackage FROM module m JOIN provisioning p ON p.moduleid = m.id "
        "JOIN provisioningOSinstalltype x ON x.provisioningid = p.id JOIN OSinstalltype t ON t.id = x.OSinstalltypeid "
        "WHERE p.name = 'esxprov' AND t.name = 'vmware'"
    )
    assert package == "VCL::Module::Provisioning::esxprov"


def test_registering_again_changes_nothing(database: Database, rows: VclRows) -> None:
    vcl.register(database)
    before = content(rows)
    assert were_there(vcl.register(database)) == [True, True, True]
    assert content(rows) == before


def test_what_is_missing_is_added_to_what_is_there(database: Database, server: MariaDb) -> None:
    vcl.register(database)
    server.execute("DELETE FROM provisioning WHERE name = 'esxprov'")
    assert were_there(vcl.register(database)) == [True, False, False]
    assert were_there(vcl.registered(database)) == [True, True, True]


def test_unregistering_leaves_vcls_tables_as_they_were(database: Database, rows: VclRows) -> None:
    before = content(rows)
    vcl.register(database)
    assert content(rows) != before
    assert were_there(vcl.unregister(database)) == [True, True, True]
    assert content(rows) == before
    assert were_there(vcl.unregister(database)) == [False, False, False]


@pytest.mark.parametrize("deleted", [0, 1])
def test_unregistering_is_refused_while_a_computer_has_the_engine_also_a_deleted_one(
    database: Database, rows: VclRows, deleted: int
) -> None:
    vcl.register(database)
    engine = rows.value("SELECT id FROM provisioning WHERE name = 'esxprov'")
    rows.insert("computer", hostname="registered1", provisioningid=engine, deleted=deleted)
    before = content(rows)
    with pytest.raises(ConfigurationError, match="engine esxprov is that of registered1"):
        vcl.unregister(database)
    assert content(rows) == before


def test_a_module_of_that_name_with_another_package_is_left_alone(database: Database, rows: VclRows) -> None:
    rows.insert("module", name="provisioning_esxprov", prettyname="x", description="", perlpackage="VCL::Other")
    before = content(rows)
    for change in (vcl.register, vcl.unregister, vcl.registered):
        with pytest.raises(ConfigurationError, match=r"provisioning_esxprov loads VCL::Other, expected VCL::Module"):
            change(database)
    assert content(rows) == before


def test_an_engine_of_that_name_of_another_module_is_left_alone(database: Database, rows: VclRows) -> None:
    rows.insert("provisioning", name="esxprov", prettyname="x", moduleid=1)
    before = content(rows)
    with pytest.raises(ConfigurationError, match=r"engine esxprov belongs to module provisioning_xcat"):
        vcl.register(database)
    assert content(rows) == before


def test_without_the_right_to_write_one_of_the_tables_nothing_is_written(
    database: Database, server: MariaDb, rows: VclRows
) -> None:
    before = content(rows)
    server.execute(
        f"CREATE USER half@'%' IDENTIFIED BY '{PASSWORD}'; GRANT SELECT ON vcl.* TO half@'%'; "
        "GRANT INSERT ON vcl.module TO half@'%'; GRANT UPDATE ON vcl.OSinstalltype TO half@'%'"
    )
    try:
        half = Database(DatabaseConfig(unix_socket=str(server.socket), user="half", password=PASSWORD, name="vcl"))
        with pytest.raises(DependencyUnavailable, match=r"refuses user 'half': INSERT command denied .*provisioning"):
            vcl.register(half)
        half.close()
    finally:
        server.execute("DROP USER half@'%'")
    assert content(rows) == before


def test_two_that_register_at_once_make_one_row_each(database: Database, server: MariaDb, rows: VclRows) -> None:
    databases = [Database(database.config) for _ in range(4)]
    together = threading.Barrier(len(databases))
    outcomes: list[object] = []

    def register(one: Database) -> None:
        together.wait(10)
        try:
            outcomes.append(sum(not step.was_there for step in vcl.register(one)))
        except Exception as error:
            outcomes.append(error)
        one.close()

    threads = [threading.Thread(target=register, args=[one]) for one in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(map(str, outcomes)) == ["0", "0", "0", "3"]


def test_the_printed_sql_does_the_same_and_may_be_run_again(database: Database, server: MariaDb, rows: VclRows) -> None:
    for _ in range(2):
        server.execute(vcl.as_sql())
        assert were_there(vcl.registered(database)) == [True, True, True]
        assert rows.value("SELECT COUNT(*) FROM provisioning WHERE name = 'esxprov'") == 1


def test_the_commands_need_no_more_than_the_database_of_the_configuration(
    database: Database, server: MariaDb, rows: VclRows, tmp_path: Path
) -> None:
    """On the first day the rest of esxprov.conf is as the sample has it, and names files that are not there."""
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    conf = tmp_path / "esxprov.conf"
    conf.write_text(
        f"[database]\nunix_socket = {server.socket}\nuser = vcl\npassword_file = {secret}\nname = vcl\n"
        "[endpoint esx1]\nurl = https://esx1/sdk\nuser = svc\npassword_file = /nowhere\n"
    )

    def changes(*arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "esxprov.cli", "--conf", str(conf), "vcl", *arguments, "--json"],
            env={name: value for name, value in os.environ.items() if not name.startswith("ESXPROV_")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [row["change"] for row in json.loads(done.stdout)]

    before = content(rows)
    assert changes("register", "--dry-run") == ["would be added"] * 3
    assert content(rows) == before
    assert changes("register") == ["added"] * 3
    registered = content(rows)
    assert changes("register", "--dry-run") == ["is there"] * 3
    assert changes("unregister", "--dry-run") == ["would be deleted"] * 3
    assert content(rows) == registered
    assert changes("unregister") == ["deleted"] * 3
    assert content(rows) == before
    assert changes("unregister", "--dry-run") == ["is not there"] * 3
