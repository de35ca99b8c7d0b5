"""The real command as a process, against a bed with a running service."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pytest

from bridge.topology import EXCHANGE
from esxprov import schema
from tests.integration.calls import Slot
from tests.testbed.bed import IMAGES, NODE, PROFILE, Bed
from tests.testbed.mariadb import PASSWORD
from tests.testbed.processes import Child

EXAMPLE = Path(__file__).parents[2] / "bridge" / "examples" / "vcl.load.requested.v1.json"
IMAGE = IMAGES[0].name
SLOT = "slot6"
MAC = "00:50:56:01:00:06"


@pytest.fixture(scope="module")
def service(bed: Bed) -> Iterator[Child]:
    child = bed.service()
    yield child
    child.stop()


@pytest.fixture(scope="module")
def data(bed: Bed) -> dict[str, Any]:
    """What vcld would send for SLOT."""
    return Slot(6, bed.site.computers[SLOT]).data()


@pytest.fixture(scope="module")
def loaded(bed: Bed, service: Child, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The reply to a load of SLOT by `esxprov call`."""
    reply = answer(bed, "call", "load", "--file", "-", text=json.dumps(data))
    yield reply
    assert answer(bed, "call", "unload", "--file", "-", text=json.dumps(data))["result"]["removed"]


def answer(bed: Bed, *arguments: str, code: int = 0, text: str = "") -> Any:
    """What a command says to a program."""
    done = bed.esxprov(*arguments, "--json", text=text)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def said(bed: Bed, *arguments: str, code: int = 0, text: str = "") -> str:
    """What a command says to a person."""
    done = bed.esxprov(*arguments, text=text)
    assert (done.returncode, done.stderr if code == 0 else "") == (code, ""), done.stderr
    return done.stdout


@contextmanager
def interruptible(bed: Bed, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command at work that hears Ctrl-C, also if the tests run where it is ignored, as behind a shell's `&`."""
    command = ["env", "--default-signal=INT", sys.executable, "-u", "-m", "esxprov.cli", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=bed.environment(), text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def failure(bed: Bed, *arguments: str, text: str = "") -> tuple[int, str]:
    """Exit code and the one sentence of a command that fails without another word."""
    done = bed.esxprov(*arguments, text=text)
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("esxprov: "), sentence
    return done.returncode, sentence.removeprefix("esxprov: ")


# --- db, on a database of its own ------------------------------------------------------------------------------------


@dataclass
class Fresh:
    """An empty database beside VCL's, and the commands with it."""

    bed: Bed
    name: str = "fresh"

    def execute(self, sql: str) -> None:
        self.bed.mariadb.execute(sql, self.name)

    def esxprov(self, *arguments: str, user: str = "esxprov") -> subprocess.CompletedProcess[str]:
        return self.bed.esxprov("--set", f"database.name={self.name}", "--set", f"database.user={user}", *arguments)


MIGRATIONS = schema.migrations()
NEWEST = MIGRATIONS[-1].version


@pytest.fixture
def fresh(bed: Bed) -> Iterator[Fresh]:
    fresh = Fresh(bed)
    bed.mariadb.execute(f"CREATE DATABASE {fresh.name}; GRANT ALL ON {fresh.name}.* TO esxprov@'%'")
    yield fresh
    bed.mariadb.execute(f"DROP DATABASE {fresh.name}; REVOKE ALL ON {fresh.name}.* FROM esxprov@'%'")


def test_upgrade_makes_the_tables_and_a_second_time_does_nothing(fresh: Fresh) -> None:
    before = fresh.esxprov("db", "status", "--json")
    assert (before.returncode, [row["applied"] for row in json.loads(before.stdout)]) == (1, [False] * len(MIGRATIONS))
    assert before.stderr == "run 'esxprov db upgrade'\n"
    applied = [f"applied {one.version:04d} {one.name}" for one in MIGRATIONS]
    assert applied[:2] == ["applied 0001 journal", "applied 0002 placement"]
    assert fresh.esxprov("db", "upgrade").stdout.splitlines() == applied
    assert fresh.esxprov("db", "upgrade").stdout == "the tables are up to date\n"
    after = fresh.esxprov("db", "status", "--json")
    assert (after.returncode, [row["applied"] for row in json.loads(after.stdout)]) == (0, [True] * len(MIGRATIONS))


def test_upgrade_goes_on_where_it_was_killed(fresh: Fresh) -> None:
    assert fresh.esxprov("db", "upgrade").returncode == 0
    fresh.execute(
        "DROP TABLE esxprov_quarantine; ALTER TABLE esxprov_claim DROP COLUMN line; "
        "ALTER TABLE esxprov_claim DROP COLUMN ends_at, DROP KEY age; DELETE FROM esxprov_schema WHERE version >= 3"
    )
    applied = json.loads(fresh.esxprov("db", "upgrade", "--json").stdout)
    assert [one["name"] for one in applied] == [one.name for one in MIGRATIONS if one.version >= 3]
    fresh.execute("SELECT ends_at FROM esxprov_claim; SELECT * FROM esxprov_quarantine")


@pytest.mark.parametrize("command", [["serve"], ["events", "list"], ["hosts"], ["replay", "e1"]], ids=" ".join)
def test_without_tables_every_command_says_which_one_to_run(fresh: Fresh, command: list[str]) -> None:
    done = fresh.esxprov(*command)
    assert done.returncode == 78
    assert done.stderr.endswith(f"have version 0, this program needs {NEWEST}: run 'esxprov db upgrade'\n")
    assert done.stderr.count("\n") == 1


def test_newer_tables_are_left_alone(fresh: Fresh) -> None:
    assert fresh.esxprov("db", "upgrade").returncode == 0
    fresh.execute("INSERT INTO esxprov_schema VALUES (99, 'from the future', NOW())")
    for command in (["serve"], ["db", "upgrade"], ["db", "status"]):
        done = fresh.esxprov(*command)
        assert (done.returncode, done.stderr) == (
            78,
            f"esxprov: the esxprov tables have version 99, newer than the {NEWEST} of this program: "
            "install the newer esxprov\n",
        )


def test_a_database_user_without_privileges_is_told_so(fresh: Fresh) -> None:
    fresh.execute(f"CREATE USER reader@'%' IDENTIFIED BY '{PASSWORD}'; GRANT SELECT ON fresh.* TO reader@'%'")
    try:
        done = fresh.esxprov("db", "upgrade", user="reader")
    finally:
        fresh.execute("DROP USER reader@'%'")
    assert done.returncode == 69
    assert "refuses user 'reader': CREATE command denied" in done.stderr
    assert done.stderr.endswith("see to its privileges, its disk and its settings\n")


# --- call ------------------------------------------------------------------------------------------------------------


def test_ping_tells_who_answers(bed: Bed, service: Child) -> None:
    assert answer(bed, "call", "ping")["result"]["node"] == NODE


def test_a_call_shows_its_progress_and_its_result(bed: Bed, service: Child, data: dict[str, Any]) -> None:
    done = bed.esxprov("call", "load", "--file", "-", text=json.dumps(data))
    assert done.returncode == 0
    assert f"  copy_disk: copying {IMAGE} for {SLOT} on nfs1\n" in done.stderr
    first, *result = done.stdout.splitlines()
    assert first.startswith("load ok after ")
    assert f"  mac         {MAC}" in result


def test_a_call_that_fails_says_why_and_ends_with_1(bed: Bed, service: Child, data: dict[str, Any]) -> None:
    wanted = json.dumps({**data, "image": {**data["image"], "name": "nobody"}})
    done = bed.esxprov("call", "does_image_exist", "--file", "-", text=wanted)
    assert (done.returncode, "  exists  no" in done.stdout or "exists  False" in done.stdout) == (0, True)
    done = bed.esxprov("call", "get_image_size", "--file", "-", text=wanted)
    assert done.returncode == 1
    assert "image_not_found: image nobody has no disk [nfs1] golden/nobody/nobody.vmdk" in done.stdout


def test_a_call_nobody_follows_is_in_the_journal(bed: Bed, service: Child, data: dict[str, Any]) -> None:
    event = answer(bed, "call", "power_off", "--no-follow", "--file", "-", text=json.dumps(data))["event"]
    # An unload of the same computer is worked on after it, so its reply tells that the first one has ended.
    answer(bed, "call", "unload", "--file", "-", text=json.dumps(data))
    assert answer(bed, "events", "show", event)["state"] == "done"


def test_without_a_service_for_the_node_a_call_ends_with_69(bed: Bed, service: Child) -> None:
    code, sentence = failure(bed, "--set", "service.management_node=mn9", "call", "ping")
    assert code == 69
    assert "nobody takes 'ping' for management node 'mn9'" in sentence
    assert "start esxprov.service there, or check the node's name" in sentence


def test_ctrl_c_leaves_the_call_to_the_service_and_says_so(bed: Bed, service: Child, data: dict[str, Any]) -> None:
    for host in bed.endpoints.values():
        host.inject("CopyVirtualDisk_Task", "delay", ms=1500, count=1)
    with interruptible(bed, "call", "load", "--file", "-") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(json.dumps(data))
        process.stdin.close()
        while "copy_disk" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        last = process.stderr.read().splitlines()[-1]
        assert process.wait(20) == 1
    assert last.startswith("esxprov: not waiting any more, but load ")
    assert "see 'esxprov events show " in last
    for host in bed.endpoints.values():
        host.clear_faults()
    assert answer(bed, "call", "unload", "--file", "-", text=json.dumps(data))["outcome"] == "ok"


# --- events, replay --------------------------------------------------------------------------------------------------


def test_the_list_of_events_finds_a_reservation_s_own(bed: Bed, loaded: dict[str, Any]) -> None:
    table = said(bed, "events", "list", "--reservation", "5006", "--outcome", "ok", "--limit", "1").splitlines()
    assert table[0].split() == [
        "id",
        "call",
        "computer",
        "computer",
        "id",
        "reservation",
        "received",
        "state",
        "step",
        "error",
    ]
    assert table[2].split()[:3] == [loaded["event"], "load", SLOT]
    (row,) = answer(bed, "events", "list", "--limit", "1")
    assert (row["id"], row["outcome"], row["computer"]) == (loaded["event"], "ok", SLOT)
    assert said(bed, "events", "list", "--reservation", "60000") == "no events\n"


def test_an_event_is_shown_with_its_placement_and_its_result(bed: Bed, loaded: dict[str, Any]) -> None:
    shown = said(bed, "events", "show", loaded["event"])
    assert f"\ncomputer     {SLOT}, id " in shown
    assert "\nstate        done, ok\n" in shown
    assert f"  {loaded['result']['host']}  chosen, " in shown
    assert f"  private ip  {loaded['result']['private_ip']}\n" in shown
    assert answer(bed, "events", "show", loaded["event"])["envelope"]["data"]["computer"]["name"] == SLOT


def test_an_unknown_event_is_an_error(bed: Bed, service: Child) -> None:
    assert failure(bed, "events", "show", "e1") == (1, "there is no event e1: see 'esxprov events list'")
    assert failure(bed, "replay", "e1")[0] == 1


def test_what_was_exported_can_be_replayed(bed: Bed, loaded: dict[str, Any], tmp_path: Path) -> None:
    day = tmp_path / "day.jsonl"
    day.write_text(said(bed, "events", "export"))
    plan = next(plan for plan in answer(bed, "replay", str(day)) if plan["event"] == loaded["event"])
    assert (plan["problem"], plan["same"], plan["placement_then"]) == (None, True, loaded["result"]["host"])
    assert said(bed, "events", "export", "--since", "2100-01-01") == ""


def test_a_reader_that_has_enough_of_an_export_is_no_error(bed: Bed, loaded: dict[str, Any]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "esxprov.cli", "events", "export"]
    done = subprocess.run(
        command, env=bed.environment(), stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_replay_is_only_planned_unless_it_is_to_be_executed(bed: Bed, loaded: dict[str, Any]) -> None:
    before = answer(bed, "events", "list", "--limit", "1")
    done = bed.esxprov("replay", loaded["event"])
    assert (done.returncode, done.stderr) == (0, "nothing was done; --execute does it\n")
    assert f"load of {SLOT}, image {IMAGE}; then: ok" in done.stdout
    assert "with the world of that day the same today" in done.stdout
    assert answer(bed, "events", "list", "--limit", "1") == before


def test_a_replay_is_a_new_event_with_the_old_one_as_its_cause(bed: Bed, loaded: dict[str, Any]) -> None:
    (plan,) = answer(bed, "replay", loaded["event"], "--execute")
    assert plan["reply"]["outcome"] == "ok"
    envelope = answer(bed, "events", "show", plan["reply"]["event"])["envelope"]
    assert (envelope["causationid"], envelope["replays"]) == (loaded["event"], 1)


# --- dead ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def parked(bed: Bed, service: Child) -> Iterator[tuple[str, str]]:
    """Two parked messages: a ping of a user who may not, and what is no event at all."""
    ping = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "urn:test", "type": "vcl.ping.requested.v1"}
    body = json.dumps({**ping, "time": "2026-11-22T05:41:07Z", "data": {}}).encode()
    wanted = (ping["id"], str(uuid.uuid4()))
    credentials = pika.PlainCredentials("onlooker", bed.rabbitmq.password("onlooker"))
    address = pika.ConnectionParameters(bed.rabbitmq.host, bed.rabbitmq.port, credentials=credentials)
    connection = pika.BlockingConnection(address)
    channel = connection.channel()
    for identifier, content in zip(wanted, (body, b"no \x1b[31mevent"), strict=True):
        described = pika.BasicProperties(message_id=identifier, user_id="onlooker")
        channel.basic_publish(EXCHANGE, f"{NODE}.ping", content, described)
    missing = set(wanted)
    for _, properties, _ in channel.consume("esxprov.dead", inactivity_timeout=20):
        assert properties is not None, f"{missing} were not parked"
        missing.discard(properties.message_id)
        if not missing:
            break
    connection.close()
    yield wanted
    for row in answer(bed, "dead", "list"):
        assert bed.esxprov("dead", "drop", row["id"]).returncode == 0


def test_parked_messages_are_listed_shown_and_dropped(bed: Bed, parked: tuple[str, str]) -> None:
    ping, nonsense = parked
    rows = {row["id"]: row for row in answer(bed, "dead", "list")}
    assert "'onlooker' may not give commands" in rows[ping]["reason"]
    assert "the body is not JSON" in rows[nonsense]["reason"]
    shown = said(bed, "dead", "show", nonsense)
    assert "publisher    onlooker\n" in shown
    assert shown.endswith("\n\nno \\x1b[31mevent\n")
    assert answer(bed, "dead", "show", nonsense)["body"] == "no \x1b[31mevent"
    assert said(bed, "dead", "drop", nonsense) == f"dropped {nonsense}\n"
    assert [row["id"] for row in answer(bed, "dead", "list")] == [ping]
    assert failure(bed, "dead", "drop", nonsense)[0] == 1
    assert failure(bed, "dead", "show", nonsense) == (
        1,
        f"there is no parked message {nonsense}: see 'esxprov dead list'",
    )


def test_a_parked_message_that_was_replayed_is_parked_no_more(bed: Bed, parked: tuple[str, str]) -> None:
    ping, nonsense = parked
    planned = {plan["parked"]: plan for plan in answer(bed, "replay", "--dead")}
    assert (planned[ping]["call"], planned[ping]["problem"]) == ("ping", None)
    assert "cannot be read: the body is not JSON" in planned[nonsense]["problem"]
    assert len(answer(bed, "dead", "list")) == 2
    done = answer(bed, "replay", "--dead", "--execute", code=1)  # one of the two cannot be done
    assert [plan["reply"]["outcome"] for plan in done if plan["parked"] == ping] == ["ok"]
    assert [row["id"] for row in answer(bed, "dead", "list")] == [nonsense]


def test_one_parked_message_can_be_named(bed: Bed, parked: tuple[str, str]) -> None:
    ping, _ = parked
    (plan,) = answer(bed, "replay", "--dead", ping, "--execute")
    assert plan["reply"]["outcome"] == "ok"
    assert failure(bed, "replay", "--dead", ping)[0] == 1


# --- hosts, place ----------------------------------------------------------------------------------------------------


def test_hosts_shows_what_each_can_still_take(bed: Bed, loaded: dict[str, Any]) -> None:
    rows = {row["host"]: row for row in answer(bed, "hosts")}
    assert set(rows) == {"esx1", "esx2", "esx3"}
    assert {name: row["vms"] for name, row in rows.items()} == {
        name: len(endpoint.inventory()["vms"]) for name, endpoint in bed.endpoints.items()
    }
    for row in rows.values():
        reserved_and_promised_mb = 1024 + 1024 * row["vms"]
        assert 0 < row["ram_free_mb"] <= row["ram_mb"] - reserved_and_promised_mb
    assert all(row["refused"] is None for row in rows.values())
    assert "connected" in said(bed, "hosts")


def test_a_silent_host_is_shown_with_the_reason_and_all_silent_ones_end_with_69(bed: Bed, service: Child) -> None:
    away = [f"--set=endpoint {name}.url=https://127.0.0.1:1/sdk" for name in ("esx1", "esx2", "esx3")]
    rows = {row["host"]: row for row in answer(bed, away[0], "hosts")}
    assert rows["esx1"]["state"] == "silent"
    assert "refuses connections" in rows["esx1"]["refused"]
    assert len(answer(bed, *away, "hosts", code=69)) == 3
    place = ("place", "--profile", PROFILE, "--ram-mb", "512")
    assert set(answer(bed, *away, *place, code=69)["silent"]) == {"esx1", "esx2", "esx3"}


def test_place_says_where_and_claims_nothing(bed: Bed, service: Child) -> None:
    before = bed.rows().value("SELECT COUNT(*) FROM esxprov_claim WHERE state <> 'released'")
    found = answer(bed, "place", "--profile", PROFILE, "--ram-mb", "512", "--count", "3")
    assert len(found["placements"]) == 3
    host, _, reason = said(bed, "place", "--profile", PROFILE, "--ram-mb", "20000").partition("\n")[0].partition(": ")
    assert (host, reason) == ("esx3", "the only host that takes it")
    assert bed.rows().value("SELECT COUNT(*) FROM esxprov_claim WHERE state <> 'released'") == before


def test_place_says_why_nowhere(bed: Bed, service: Child) -> None:
    lines = said(bed, "place", "--profile", PROFILE, "--ram-mb", "50000", "--explain", code=1).splitlines()
    assert lines[0] == "nowhere: no host takes it"
    assert lines[1].startswith("it would fit if esx3 had ")
    assert [line.partition(": ")[0] for line in lines[2:]] == ["not esx1", "not esx2", "not esx3"]


def test_place_says_how_many_fit(bed: Bed, service: Child) -> None:
    lines = said(bed, "place", "--profile", PROFILE, "--ram-mb", "10000", "--count", "9", code=1).splitlines()
    assert lines[0] == "nowhere: the hosts do not take all 9 VMs together"
    assert re.match(r"it would fit if only [1-4] of the 9 were asked for$", lines[-1])


def test_place_for_a_profile_that_no_pool_has(bed: Bed, service: Child) -> None:
    code, sentence = failure(bed, "place", "--profile", "nobody", "--ram-mb", "512")
    assert (code, sentence) == (
        1, f"no pool has the VM host profile 'nobody'; there are: main (profile '{PROFILE}')"
    )  # fmt: skip


# --- claims ----------------------------------------------------------------------------------------------------------


def test_the_claim_of_a_vm_is_shown(bed: Bed, loaded: dict[str, Any], data: dict[str, Any]) -> None:
    computer = str(data["computer"]["id"])
    (claim,) = answer(bed, "claims", "list", "--computer", computer)
    assert (claim["state"], claim["event"], claim["lease_s"]) == ("running", "ok", None)
    assert claim["id"] in said(bed, "claims", "list")
    assert said(bed, "claims", "list", "--computer", "65000") == "nothing is claimed\n"


def test_claims_that_are_right_need_no_correction(bed: Bed, loaded: dict[str, Any]) -> None:
    assert said(bed, "claims", "reconcile", "--dry-run") == "the claims are right\n"
    assert answer(bed, "claims", "reconcile")["planned"] == []


def test_what_does_not_answer_frees_nothing_and_alone_ends_with_69(bed: Bed, loaded: dict[str, Any]) -> None:
    away = [f"--set=endpoint {name}.url=https://127.0.0.1:1/sdk" for name in ("esx1", "esx2", "esx3")]
    assert "esx1 does not answer: nothing of it is freed" in said(bed, away[0], "claims", "reconcile")
    found = answer(bed, *away, "claims", "reconcile", code=69)
    assert (found["planned"], found["silent"]) == ([], ["esx1", "esx2", "esx3"])


# --- leases ----------------------------------------------------------------------------------------------------------


def test_the_lease_of_a_vm_is_shown(bed: Bed, loaded: dict[str, Any]) -> None:
    (lease,) = answer(bed, "leases", "show", "--mac", MAC)
    assert lease["ip"] == loaded["result"]["private_ip"]
    assert f"{lease['ip']}  {MAC}  active  " in said(bed, "leases", "show", "--ip", lease["ip"])


def test_watch_prints_a_lease_as_it_is_written(bed: Bed, service: Child, data: dict[str, Any]) -> None:
    with interruptible(bed, "leases", "watch", "--mac", MAC, "--json") as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stderr.readline() == f"watching {bed.lan.leases}, Ctrl-C ends it\n"
        assert answer(bed, "call", "load", "--file", "-", text=json.dumps(data))["outcome"] == "ok"
        lease = json.loads(watching.stdout.readline())
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
        assert watching.stderr.read() == ""
    assert (lease["mac"], lease["state"]) == (MAC, "active")
    answer(bed, "call", "unload", "--file", "-", text=json.dumps(data))
