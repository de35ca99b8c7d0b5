"""`esxprov install | uninstall` with a real database, Perl and RabbitMQ."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pika
import pytest

from esxprov import schema
from esxprov.database import Database, DatabaseConfig
from esxprov.install import vcl
from tests.testbed.mariadb import PASSWORD, MariaDb
from tests.testbed.rabbitmq import RabbitMq
from tests.testbed.vcl_rows import VclRows

MODULES = Path("usr/local/vcl/lib/VCL/Module/Provisioning")
REPOSITORY = Path(__file__).parents[2]


def esxprov(root: Path, command: str, *arguments: str, code: int = 0) -> str:
    """What a command prints; stderr behind."""
    done = subprocess.run(
        [sys.executable, "-m", "esxprov.cli", command, "--root", str(root), *arguments],
        env={name: value for name, value in os.environ.items() if not name.startswith("ESXPROV_")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Node:
    """A directory that looks like a management node, whose vcld.conf leads to a real database."""

    root: Path
    database: Database

    def esxprov(self, *arguments: str, code: int = 0) -> str:
        return esxprov(self.root, *arguments, code=code)

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}


@pytest.fixture(scope="module", params=[True, False], ids=["strict", "not strict"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    with MariaDb(tmp_path_factory.mktemp("install"), strict=request.param) as server:
        yield server


@pytest.fixture
def node(server: MariaDb, tmp_path: Path) -> Iterator[Node]:
    (tmp_path / MODULES).mkdir(parents=True)
    (tmp_path / "etc/vcl").mkdir(parents=True)
    (tmp_path / "etc/vcl/vcld.conf").write_text(
        f"server=localhost;mysql_socket={server.socket}\nLockerWrtUser=vcl\nwrtPass={PASSWORD}\ndatabase=vcl\n"
    )
    database = Database(DatabaseConfig(unix_socket=str(server.socket), user="vcl", password=PASSWORD, name="vcl"))
    yield Node(tmp_path, database)
    database.close()
    _drop_tables(server)
    server.execute(
        "DELETE FROM computer WHERE hostname LIKE 'installed%'; DELETE FROM provisioning WHERE name = 'esxprov'; "
        "DELETE FROM module WHERE name = 'provisioning_esxprov'"
    )


def _drop_tables(server: MariaDb) -> None:
    connection = server.connect()
    with connection.cursor() as cursor:
        cursor.execute("SHOW TABLES LIKE 'esxprov\\_%'")
        names = [next(iter(row.values())) for row in cursor.fetchall()]
        cursor.execute("SET FOREIGN_KEY_CHECKS = 0")
        if names:
            cursor.execute(f"DROP TABLE {', '.join(names)}")
    connection.close()


@pytest.fixture
def rows(server: MariaDb) -> Iterator[VclRows]:
    connection = server.connect()
    yield VclRows(connection)
    connection.close()


def test_a_first_day_ends_with_tables_rows_and_files_though_only_vcld_conf_says_where_the_database_is(
    node: Node,
) -> None:
    dry = node.esxprov("install", "--dry-run")
    assert node.files() == {"etc/vcl/vcld.conf"}
    assert not any(step.was_there for step in vcl.registered(node.database))
    done = node.esxprov("install")
    assert done.startswith(dry)
    assert all(step.was_there for step in vcl.registered(node.database))
    schema.check(node.database)
    again = node.esxprov("install")
    assert [line for line in again.splitlines() if line.startswith(("+", "!"))] == []


def test_uninstalling_takes_the_rows_away_and_leaves_the_tables(node: Node) -> None:
    node.esxprov("install", "--copy")
    assert "- module and provisioning engine esxprov" in node.esxprov("uninstall")
    assert not any(step.was_there for step in vcl.registered(node.database))
    schema.check(node.database)
    assert {path for path in node.files() if not path.startswith("etc/vcl/")} == set()


def test_while_a_computer_has_the_engine_nothing_is_taken_away(node: Node, rows: VclRows) -> None:
    node.esxprov("install")
    engine = rows.value("SELECT id FROM provisioning WHERE name = 'esxprov'")
    rows.insert("computer", hostname="installed1", provisioningid=engine)
    before = node.files()
    said = node.esxprov("uninstall", code=78)
    assert "the provisioning engine esxprov is that of installed1: give them another one first" in said
    assert node.files() == before
    assert all(step.was_there for step in vcl.registered(node.database))


def test_with_vcls_tables_not_there_nothing_is_installed(node: Node, server: MariaDb) -> None:
    conf = node.root / "etc/vcl/vcld.conf"
    conf.write_text(conf.read_text().replace("database=vcl", "database=other"))
    server.execute("CREATE DATABASE other; GRANT ALL ON other.* TO vcl@'%'", database="")
    try:
        said = node.esxprov("install", code=78)
    finally:
        server.execute("DROP DATABASE other; REVOKE ALL ON other.* FROM vcl@'%'", database="")
    assert "the database other has not VCL's tables" in said
    assert node.files() == {"etc/vcl/vcld.conf"}


def test_with_the_database_away_nothing_is_installed_but_files_can_be(node: Node) -> None:
    conf = node.root / "etc/vcl/vcld.conf"
    conf.write_text(re.sub("mysql_socket=.*", f"mysql_socket={node.root}/none", conf.read_text()))
    assert "does not answer user 'vcl'" in node.esxprov("install", code=69)
    assert node.files() == {"etc/vcl/vcld.conf"}
    node.esxprov("install", "--no-database")
    assert str(MODULES / "esxprov.pm") in node.files()


@pytest.mark.parametrize("how", ["--copy", "--link"])
def test_perl_finds_and_compiles_the_shim_where_vcld_looks_for_it(node: Node, how: str) -> None:
    node.esxprov("install", "--no-database", how)
    library = node.root / "usr/local/vcl/lib"
    done = subprocess.run(
        ["perl", "-e", 'require VCL::Module::Provisioning::esxprov; print $INC{"VCL/Module/Provisioning/esxprov.pm"}'],
        env={"PERL5LIB": f"{library}:{REPOSITORY}/tests/perl/lib", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{library}/VCL/Module/Provisioning/esxprov.pm"), done.stderr


def test_the_printed_lines_make_users_who_log_in_with_the_passwords_of_the_files(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / MODULES).mkdir(parents=True)
    said = esxprov(tmp_path, "install", "--no-database")
    lines = re.findall(r"^ +(rabbitmqctl .*)$", said, re.MULTILINE)
    with RabbitMq(tmp_path_factory.mktemp("users")) as broker:
        users = [line.split()[2] for line in lines if " add_user " in line]
        for user in users:
            broker.ctl("delete_user", user)
        broker.shell("\n".join(lines).replace("/etc/vcl/", f"{tmp_path}/etc/vcl/"))
        for user, file in zip(users, ("broker", "vcld", "cli"), strict=True):
            password = (tmp_path / f"etc/vcl/esxprov/{file}.password").read_text()
            credentials = pika.PlainCredentials(user, password)
            parameters = pika.ConnectionParameters(broker.host, broker.port, credentials=credentials)
            pika.BlockingConnection(parameters).close()
        permitted = broker.ctl("list_permissions")
        assert [user for user in users if f"{user}\t" not in permitted] == []
