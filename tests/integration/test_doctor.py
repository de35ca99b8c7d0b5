"""`esxprov doctor` against a bed that is well, and with one thing broken at a time: it finds that, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pika
import pytest

from bridge.topology import DEAD
from tests.testbed.bed import DATASTORE, NODE, PROFILE, Bed, Plan
from tests.testbed.processes import Child
from tests.testbed.vsphere import HostSpec, VSphere

SHIM = Path(__file__).parents[2] / "bridge" / "perl" / "lib"
HOSTS = (HostSpec("esx1", 8192, 4), HostSpec("esx2", 8192, 4))


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """One of our own, in the SQL mode that VCL's web front end wants."""
    with Bed(tmp_path_factory.mktemp("doctor"), Plan(hosts=HOSTS, computers=1, strict=False)) as bed:
        bed.make_site()
        place = bed.directory / "vcl" / "lib" / "VCL" / "Module" / "Provisioning"
        place.mkdir(parents=True)
        shutil.copy(SHIM / "VCL/Module/Provisioning/esxprov.pm", place)
        shutil.copytree(SHIM / "VCL/Module/Provisioning/esxprov", place / "esxprov")
        upgraded = bed.esxprov("db", "upgrade")
        assert upgraded.returncode == 0, upgraded.stderr
        yield bed


@pytest.fixture(scope="module")
def service(bed: Bed) -> Iterator[Child]:
    child = bed.service()
    yield child
    child.stop()


@pytest.fixture(autouse=True)
def vcld_checks_in(bed: Bed, service: Child) -> None:
    """There is no vcld in the bed to do it."""
    bed.rows().execute("UPDATE managementnode SET lastcheckin = NOW()")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the command said: its findings, and how it ended."""

    code: int
    rows: list[dict[str, Any]]

    def unwell(self) -> dict[str, str]:
        """Sign by check, of those that are not well; what was skipped for their sake is left out."""
        return {row["check"]: row["sign"] for row in self.rows if row["sign"] in ("wrong", "warn")}

    def skipped(self) -> list[str]:
        return [row["check"] for row in self.rows if row["sign"] == "skipped"]

    def cure(self, check: str) -> str:
        (cure,) = {row["cure"] for row in self.rows if row["check"] == check and row["sign"] in ("wrong", "warn")}
        assert cure
        return str(cure)


def examined(bed: Bed, *settings: str) -> Diagnosis:
    options = [word for each in settings for word in ("--set", each)]
    done = bed.esxprov(*options, "doctor", "--vcl", str(bed.directory / "vcl"), "--json")
    assert done.stdout, done.stderr
    return Diagnosis(done.returncode, json.loads(done.stdout))


def test_a_bed_that_is_well_has_every_check_ok(bed: Bed) -> None:
    found = examined(bed)
    assert [row for row in found.rows if row["sign"] != "ok"] == []
    assert found.code == 0
    kinds = ("certificate", "login", "clock", "licence", "hosts", "datastore", "golden", "networks")
    roles = [f"broker.{what}.{role}" for role in ("service", "vcld", "cli") for what in ("login", "permissions")]
    assert {row["check"] for row in found.rows} == {
        "config", *roles, "broker.topology", "broker.dead", "service.consumers", "service.version",
        "shim.place", "shim.version",
        "database.login", "database.schema", "database.mode", "database.rights",
        "vcl.rows", "vcl.profile", "vcl.node", "leases.file", "leases.conf", "spool",
        *(f"endpoint.{host.name}.{kind}" for host in HOSTS for kind in kinds),
    }  # fmt: skip


def test_looking_leaves_nothing_behind(bed: Bed) -> None:
    (bed.store / "inuse").mkdir(exist_ok=True)  # as the first load does
    before = sorted(bed.store.rglob("*")), bed.rabbitmq.ctl("list_queues", "name"), bed.endpoints["esx1"].sessions()
    assert examined(bed).code == 0
    after = sorted(bed.store.rglob("*")), bed.rabbitmq.ctl("list_queues", "name"), bed.endpoints["esx1"].sessions()
    assert after == before


def test_people_get_a_line_for_each_check_and_the_repair_under_it(bed: Bed) -> None:
    lines = bed.esxprov("--set", "vcld.spool=/dev/null", "doctor").stdout.splitlines()
    assert f"ok       config: {bed.conf} is good" in lines
    assert lines[-2:] == [
        "wrong    spool: /dev/null is no directory",
        "         repair: correct spool in [vcld], or remove that file",
    ]


# --- one thing at a time ---------------------------------------------------------------------------------------------

Break = Callable[[Bed], AbstractContextManager[Any]]


@contextmanager
def another_password(bed: Bed, user: str) -> Iterator[None]:
    bed.rabbitmq.ctl("change_password", user, "another")
    yield
    bed.rabbitmq.ctl("change_password", user, bed.rabbitmq.password(user))


@contextmanager
def fewer_permissions(bed: Bed, user: str, configure: str, write: str, read: str) -> Iterator[None]:
    """Mended by the command that the doctor prescribes."""
    bed.rabbitmq.ctl("set_permissions", user, configure, write, read)
    role = {"esxprov": "service", "esxprov-cli": "cli"}.get(user, user)
    yield
    program, *arguments = shlex.split(examined(bed).cure(f"broker.permissions.{role}"))
    assert program == "rabbitmqctl"
    bed.rabbitmq.ctl(*arguments)


@contextmanager
def no_permissions(bed: Bed, user: str) -> Iterator[None]:
    """In the whole virtual host. Mended by the command that the doctor prescribes."""
    bed.rabbitmq.ctl("clear_permissions", user)
    yield
    _, *arguments = shlex.split(examined(bed).cure(f"broker.permissions.{user}"))
    bed.rabbitmq.ctl(*arguments)


@contextmanager
def shim(bed: Bed, name: str, text: str | None) -> Iterator[None]:
    """A file of it gone, or with a line more. Mended by the command that the doctor prescribes."""
    file = bed.directory / "vcl" / "lib" / "VCL" / "Module" / "Provisioning" / name
    if text is None:
        file.unlink()
    else:
        file.write_text(file.read_text() + text)
    yield
    check = "shim.place" if name == "esxprov.pm" and text is None else "shim.version"
    command = shlex.split(examined(bed).cure(check), comments=True)
    assert command[0] == "cp"
    subprocess.run(command, check=True)


@contextmanager
def onlooking(bed: Bed) -> Iterator[Any]:
    credentials = pika.PlainCredentials("onlooker", bed.rabbitmq.password("onlooker"))
    connection = pika.BlockingConnection(
        pika.ConnectionParameters(bed.rabbitmq.host, bed.rabbitmq.port, credentials=credentials)
    )
    yield connection.channel()
    connection.close()


@contextmanager
def dead_queue(bed: Bed, kind: str | None) -> Iterator[None]:
    """Gone, or of another kind."""
    with onlooking(bed) as channel:
        channel.queue_delete(DEAD)
        if kind:
            channel.queue_declare(DEAD, durable=True, arguments={"x-queue-type": kind})
    yield
    with onlooking(bed) as channel:
        channel.queue_delete(DEAD)
        channel.queue_declare(DEAD, durable=True, arguments={"x-queue-type": "classic"})


@contextmanager
def rubbish(bed: Bed) -> Iterator[None]:
    with onlooking(bed) as channel:
        channel.confirm_delivery()
        channel.basic_publish("", DEAD, b"no event")
    yield
    with onlooking(bed) as channel:
        channel.queue_purge(DEAD)


@contextmanager
def sql(bed: Bed, wound: str, bandage: str) -> Iterator[None]:
    bed.mariadb.execute(wound)
    yield
    bed.mariadb.execute(bandage)


@contextmanager
def old_tables(bed: Bed) -> Iterator[None]:
    """As of the version before the last. Mended by the command that the doctor prescribes."""
    bed.mariadb.execute("DELETE FROM esxprov_schema ORDER BY version DESC LIMIT 1")
    yield
    program, *arguments = shlex.split(examined(bed).cure("database.schema"))
    assert (program, bed.esxprov(*arguments).returncode) == ("esxprov", 0)


@contextmanager
def module_row(bed: Bed) -> Iterator[None]:
    """Mended by the command that the doctor prescribes."""
    bed.rows().execute(
        "DELETE x FROM provisioningOSinstalltype x JOIN provisioning p ON p.id = x.provisioningid "
        "WHERE p.name = 'esxprov'"
    )
    yield
    program, *arguments = shlex.split(examined(bed).cure("vcl.rows"))
    assert program == "esxprov"
    done = bed.esxprov(*arguments)
    assert done.returncode == 0, done.stderr


@contextmanager
def clock(bed: Bed, ahead_s: float) -> Iterator[None]:
    bed.endpoints["esx2"].set_clock(ahead_s)
    yield
    bed.endpoints["esx2"].set_clock(0)


@contextmanager
def host(bed: Bed, wound: Mapping[str, Any], bandage: Mapping[str, Any]) -> Iterator[None]:
    bed.endpoints["esx2"].set_host("esx2", **wound)
    yield
    bed.endpoints["esx2"].set_host("esx2", **bandage)


@contextmanager
def free_licence(bed: Bed) -> Iterator[None]:
    for method in ("MakeDirectory", "DeleteDatastoreFile_Task"):
        bed.endpoints["esx2"].inject(method, "soap", fault="RestrictedVersion")
    yield
    bed.endpoints["esx2"].clear_faults()


@contextmanager
def login(bed: Bed) -> Iterator[None]:
    """Who is logged in stays so."""
    right = bed.endpoints["esx2"].password
    bed.endpoints["esx2"].set_password("another")
    yield
    bed.endpoints["esx2"].set_password(right)


@contextmanager
def certificate_for(bed: Bed, days: int) -> Iterator[tuple[str, ...]]:
    """The same host, served with another certificate."""
    served = bed.certificates.server(f"days{days}", days=days)
    server = VSphere.start_esxi(
        bed.directory / f"days{days}",
        "esx2",
        datastores={DATASTORE: bed.store},
        certificate=served.certificate,
        key=served.key,
        ca=bed.certificates.ca,
    )
    yield (f"endpoint esx2.url={server.url}",)
    server.stop()


@contextmanager
def read_only(bed: Bed) -> Iterator[None]:
    bed.endpoints["esx2"].inject("PUT /folder", "http", status=403)
    yield
    bed.endpoints["esx2"].clear_faults()


@contextmanager
def no_lease_file(bed: Bed) -> Iterator[None]:
    aside = bed.lan.leases.with_name("aside")
    bed.lan.leases.rename(aside)
    yield
    aside.rename(bed.lan.leases)


@contextmanager
def threshold(bed: Bed) -> Iterator[None]:
    right = bed.lan.conf.read_text()
    assert "dhcp-cache-threshold 0;" in right
    bed.lan.conf.write_text(right.replace("dhcp-cache-threshold 0;", "dhcp-cache-threshold 25;"))
    yield
    bed.lan.conf.write_text(right)


@contextmanager
def open_spool(bed: Bed) -> Iterator[None]:
    """Mended by the command that the doctor prescribes."""
    bed.spool.mkdir(exist_ok=True)
    bed.spool.chmod(0o777)
    yield
    program, mode, path = shlex.split(examined(bed).cure("spool"))
    assert (program, path) == ("chmod", str(bed.spool))
    bed.spool.chmod(int(mode, 8))


@contextmanager
def forgotten_event(bed: Bed) -> Iterator[None]:
    bed.spool.mkdir(exist_ok=True)
    bed.spool.chmod(0o700)
    forgotten = bed.spool / "forgotten"
    forgotten.touch()
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(forgotten, (long_ago, long_ago))
    yield
    forgotten.unlink()


@dataclass(frozen=True, slots=True)
class Case:
    """`harm` breaks it and mends it again, and may yield settings; or `settings` alone are wrong."""

    sign: str
    check: str
    cure: str
    harm: Break | None = None
    settings: tuple[str, ...] = field(default=())


WRONG, WARN = "wrong", "warn"
VCLD = rf"^vcl\.reply\.{NODE}\."
CLI = r"^(esxprov\.dead|esxprov\.cli\..*)$"
NO_FILE = ("leases.source=bus:", "leases.conf=")
CASES = {
    "vcld's password": Case(
        WRONG, "broker.login.vcld", "change_password vcld", lambda bed: another_password(bed, "vcld")
    ),
    "the service's password": Case(
        WRONG, "broker.login.service", "change_password esxprov ", lambda bed: another_password(bed, "esxprov")
    ),
    "the command line's password": Case(
        WRONG, "broker.login.cli", "change_password esxprov-cli", lambda bed: another_password(bed, "esxprov-cli")
    ),
    "vcld may make no queue": Case(
        WRONG, "broker.permissions.vcld", "", lambda bed: fewer_permissions(bed, "vcld", "^$", "^esxprov$", VCLD)
    ),
    "vcld may not write": Case(
        WRONG, "broker.permissions.vcld", "", lambda bed: fewer_permissions(bed, "vcld", VCLD, "^$", VCLD)
    ),
    "vcld may not read": Case(
        WRONG, "broker.permissions.vcld", "", lambda bed: fewer_permissions(bed, "vcld", VCLD, "^esxprov$", "^$")
    ),
    "vcld has no permissions at all": Case(
        WRONG, "broker.permissions.vcld", "set_permissions vcld", lambda bed: no_permissions(bed, "vcld")
    ),
    "a broker that is away": Case(
        WRONG, "broker.login.vcld", "[vcld]", settings=("vcld.url=amqp://vcld@127.0.0.1:1/",)
    ),
    "the command line may not see what is parked": Case(
        WRONG,
        "broker.permissions.cli",
        "esxprov-cli",
        lambda bed: fewer_permissions(bed, "esxprov-cli", r"^esxprov\.cli\.", "^esxprov$", r"^esxprov\.cli\."),
    ),
    "the command line may not write": Case(
        WRONG,
        "broker.permissions.cli",
        "esxprov-cli",
        lambda bed: fewer_permissions(bed, "esxprov-cli", r"^esxprov\.cli\.", "^$", CLI),
    ),
    "the service may not reply": Case(
        WRONG,
        "broker.permissions.service",
        r"amq\.default",
        lambda bed: fewer_permissions(bed, "esxprov", "^esxprov", "^esxprov", "^esxprov"),
    ),
    "a queue is gone": Case(WRONG, "broker.topology", "restart esxprov", lambda bed: dead_queue(bed, None)),
    "a queue of another type": Case(
        WRONG, "broker.topology", f"delete_queue {DEAD}", lambda bed: dead_queue(bed, "quorum")
    ),
    "a message is parked": Case(WARN, "broker.dead", "esxprov dead list", rubbish),
    "a database user that is not there": Case(
        WRONG, "database.login", "[database]", settings=("database.user=nobody",)
    ),
    "tables of an older version": Case(WRONG, "database.schema", "esxprov db upgrade", old_tables),
    "a strict database": Case(
        WARN,
        "database.mode",
        "sql_mode = NO_ENGINE_SUBSTITUTION",
        lambda bed: sql(
            bed, "SET GLOBAL sql_mode = 'STRICT_TRANS_TABLES'", "SET GLOBAL sql_mode = 'NO_ENGINE_SUBSTITUTION'"
        ),
    ),
    "no right to delete": Case(
        WRONG,
        "database.rights",
        "GRANT DELETE ON vcl.* TO 'esxprov'@'%'",
        lambda bed: sql(bed, "REVOKE DELETE ON vcl.* FROM esxprov@'%'", "GRANT DELETE ON vcl.* TO esxprov@'%'"),
    ),
    "a row of the module": Case(WRONG, "vcl.rows", "esxprov vcl register", module_row),
    "no such profile": Case(
        WRONG,
        "vcl.profile",
        "[pool main]",
        lambda bed: sql(
            bed,
            f"UPDATE vmprofile SET profilename = 'other' WHERE profilename = '{PROFILE}'",
            f"UPDATE vmprofile SET profilename = '{PROFILE}' WHERE profilename = 'other'",
        ),
    ),
    "another node": Case(
        WRONG,
        "vcl.node",
        "management_node",
        lambda bed: sql(
            bed,
            "UPDATE managementnode SET hostname = 'x.vcl.test'",
            f"UPDATE managementnode SET hostname = '{NODE}.vcl.test'"
        ),
    ),
    "vcld is not running": Case(
        WARN,
        "vcl.node",
        "systemctl start vcld",
        lambda bed: sql(
            bed,
            "UPDATE managementnode SET lastcheckin = NOW() - INTERVAL 1 HOUR",
            "UPDATE managementnode SET lastcheckin = NOW()",
        ),
    ),
    "no shim": Case(WRONG, "shim.place", "cp -r", lambda bed: shim(bed, "esxprov.pm", None)),
    "a part of the shim is missing": Case(
        WRONG, "shim.version", "cp -r", lambda bed: shim(bed, "esxprov/Amqp.pm", None)
    ),
    "another shim": Case(WRONG, "shim.version", "cp -r", lambda bed: shim(bed, "esxprov/Contract.pm", "# older\n")),
    "a host's password": Case(WRONG, "endpoint.esx2.login", "[endpoint esx2]", login),
    "another certificate": Case(
        WRONG, "endpoint.esx2.certificate", "[endpoint esx2]", settings=("endpoint esx2.thumbprint=" + 64 * "0",)
    ),
    "a certificate that has ended": Case(
        WRONG, "endpoint.esx2.certificate", "[endpoint esx2]", lambda bed: certificate_for(bed, days=-1)
    ),
    "a certificate about to end": Case(
        WARN, "endpoint.esx2.certificate", "renew it", lambda bed: certificate_for(bed, days=5)
    ),
    "a clock ahead": Case(WRONG, "endpoint.esx2.clock", "NTP", lambda bed: clock(bed, 120)),
    "a clock behind": Case(WRONG, "endpoint.esx2.clock", "NTP", lambda bed: clock(bed, -120)),
    "a free licence": Case(
        WRONG, "endpoint.esx2.licence", "license the host", free_licence
    ),
    "a role that only reads": Case(WRONG, "endpoint.esx2.golden", "write to", read_only),
    "maintenance": Case(
        WARN,
        "endpoint.esx2.hosts",
        "maintenance",
        lambda bed: host(bed, {"maintenance": True}, {"maintenance": False}),
    ),
    "a host that is lost": Case(
        WRONG,
        "endpoint.esx2.hosts",
        "reconnect",
        lambda bed: host(bed, {"state": "notResponding"}, {"state": "connected"}),
    ),
    "an endpoint of no pool": Case(
        WARN, "endpoint.esx2.hosts", "[pool NAME]", settings=("pool main.endpoints=esx1",)
    ),
    "a datastore not mounted": Case(
        WRONG,
        "endpoint.esx2.datastore",
        f"mount {DATASTORE} on esx2",
        lambda bed: host(bed, {"datastores": []}, {"datastores": [DATASTORE]}),
    ),
    "a port group": Case(
        WRONG,
        "endpoint.esx2.networks",
        "port group Public on esx2",
        lambda bed: host(bed, {"networks": ["Private"]}, {"networks": ["Private", "Public"]}),
    ),
    "no lease file": Case(WRONG, "leases.file", "[leases] source", no_lease_file),
    "leases not written": Case(WRONG, "leases.conf", "dhcp-cache-threshold 0;", threshold),
    "nobody publishes leases": Case(WRONG, "leases.bus", "esxprov leases publish", settings=NO_FILE),
    "others may write to the spool": Case(WRONG, "spool", "chmod 700", open_spool),
    "an event nobody fetched": Case(WARN, "spool", "find", forgotten_event),
    "a key that is not there": Case(WRONG, "config", "sample-config", settings=("service.nonsense=1",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_thing_is_broken_and_only_that_is_found_and_gone_when_mended(bed: Bed, case: Case) -> None:
    if case.harm is None:
        found = examined(bed, *case.settings)
    else:
        with case.harm(bed) as settings:
            found = examined(bed, *(settings or ()))
        assert examined(bed).unwell() == {}
    assert found.unwell() == {case.check: case.sign}, [row for row in found.rows if row["cure"]]
    assert case.cure in found.cure(case.check)
    assert found.code == (1 if case.sign == WRONG else 0)


def test_a_directory_of_images_that_is_not_there_is_missed_by_every_endpoint(bed: Bed) -> None:
    found = examined(bed, "pool main.golden=elsewhere")
    assert found.unwell() == {f"endpoint.{host.name}.golden": "wrong" for host in HOSTS}
    assert f"make the directory [{DATASTORE}] elsewhere" in found.cure("endpoint.esx1.golden")


def test_what_needs_the_broken_thing_is_skipped_and_says_so(bed: Bed) -> None:
    found = examined(bed, "database.user=nobody")
    assert {"database.schema", "database.mode", "database.rights", "vcl.profile"} <= set(found.skipped())
    texts = {row["check"]: row["text"] for row in found.rows}
    assert texts["database.rights"] == "not looked at, because database.login is wrong"


def test_a_pinned_certificate_is_well_whatever_its_date(bed: Bed, service: Child) -> None:
    served = ssl.get_server_certificate(("127.0.0.1", bed.endpoints["esx2"].port))
    pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(served)).hexdigest()
    found = examined(bed, f"endpoint esx2.thumbprint={pin}")
    assert (found.code, found.unwell()) == (0, {})
    (text,) = [row["text"] for row in found.rows if row["check"] == "endpoint.esx2.certificate"]
    assert text == "it is the pinned one"


def test_of_a_vcenter_the_host_that_lacks_something_is_named(tmp_path: Path) -> None:
    with Bed(tmp_path / "vcenter", Plan(hosts=HOSTS, computers=1, vcenter=True)) as bed:
        bed.make_site()
        bed.endpoints["vc1"].set_host("esx2", networks=["Private"], datastores=[])
        found = examined(bed)
    wrong = {row["check"]: row["text"] for row in found.rows if row["sign"] == "wrong"}
    assert {check: text for check, text in wrong.items() if check.startswith("endpoint.")} == {
        "endpoint.vc1.networks": "esx2 has no network Public",
        "endpoint.vc1.datastore": f"esx2 cannot use the datastore {DATASTORE}",
    }


def test_without_vcl_on_this_machine_the_shim_is_not_looked_for(bed: Bed) -> None:
    done = bed.esxprov("doctor", "--vcl", str(bed.directory / "nowhere"), "--json")
    found = Diagnosis(done.returncode, json.loads(done.stdout))
    assert (found.code, found.unwell(), found.skipped()) == (0, {}, ["shim.place", "shim.version"])


def test_a_service_that_hangs_and_one_that_is_gone_are_found(bed: Bed, service: Child) -> None:
    service.pause()
    hangs = examined(bed)
    service.resume()
    assert hangs.unwell() == {"service.version": "wrong"}
    assert hangs.cure("service.version") == "journalctl -u esxprov"
    service.stop()
    gone = examined(bed)
    assert gone.unwell() == {"service.consumers": "wrong"}
    assert gone.cure("service.consumers") == "systemctl start esxprov"


def test_a_service_that_was_not_restarted_after_an_upgrade_is_found(bed: Bed, tmp_path: Path) -> None:
    of_yesterday = tmp_path / "esxprov-0.0.1.dist-info"
    of_yesterday.mkdir()
    (of_yesterday / "METADATA").write_text("Metadata-Version: 2.1\nName: esxprov\nVersion: 0.0.1\n")
    old = bed.service(PYTHONPATH=f"{tmp_path}:{bed.environment()['PYTHONPATH']}")
    found = examined(bed)
    old.stop()
    assert found.unwell() == {"service.version": "wrong"}
    assert found.cure("service.version") == "systemctl restart esxprov"
