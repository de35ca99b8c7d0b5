"""`esxprov slots` as a process, on a VCL of its own, with the hypervisors of the bed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.bed import PROFILE, Bed
from tests.testbed.vcl_rows import VclRows

NAME = "firstday"
SETTINGS = {"names": "vm##.vcl.test", "macs": "00:50:56:10:00:00", "most": "20"}


@dataclass
class FirstDay:
    """A VCL without computers."""

    bed: Bed
    rows: VclRows

    def arguments(self, *arguments: str, **settings: str) -> list[str]:
        given = {f"slots main.{key}": value for key, value in (SETTINGS | settings).items()}
        given |= {"database.name": NAME}
        return [text for key, value in given.items() for text in ("--set", f"{key}={value}")] + list(arguments)

    def esxprov(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return self.bed.esxprov(*self.arguments(*arguments, **settings))

    def answer(self, *arguments: str, code: int = 0, **settings: str) -> Any:
        done = self.esxprov(*arguments, "--json", **settings)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    @property
    def computers(self) -> int:
        return int(self.rows.value("SELECT COUNT(*) FROM computer WHERE deleted = 0"))


@pytest.fixture
def site(bed: Bed) -> Iterator[FirstDay]:
    bed.mariadb.begin_anew(NAME)
    bed.mariadb.execute(f"GRANT ALL ON {NAME}.* TO esxprov@'%'; GRANT ALL ON {NAME}.* TO vcl@'%'")
    with closing(bed.mariadb.connect(database=NAME)) as connection:
        rows = VclRows(connection)
        rows.esxprov_module()
        rows.management_node("mn1.vcl.test")
        rows.execute("UPDATE managementnode SET lastcheckin = NOW()")
        rows.profile(PROFILE, "nfs1")
        rows.image("vmwarelinux-base9-v3", ram_mb=1024)
        site = FirstDay(bed, rows)
        assert site.esxprov("db", "upgrade").returncode == 0
        yield site
    bed.mariadb.execute(f"DROP DATABASE {NAME}")
    bed.mariadb.execute(f"REVOKE ALL ON {NAME}.* FROM esxprov@'%'; REVOKE ALL ON {NAME}.* FROM vcl@'%'")


def test_from_no_computers_to_slots_that_are_offered_and_back(site: FirstDay) -> None:
    planned = site.esxprov("slots", "plan")
    assert planned.returncode == 0, planned.stderr
    assert site.computers == 0
    assert "add     pool host  esxprov-main.vcl.test" in planned.stdout
    assert "add     slot       vm20.vcl.test          00:50:56:10:00:26 00:50:56:10:00:27" in planned.stdout
    # The largest host has 32 GB, 1 GB of it reserved; its VM needs 1 % and 12 MB for each of 32 vCPUs more.
    assert "pool main: 20 slots of 31016 MB and 32 vCPUs (20 add)\n" in planned.stdout

    done = site.esxprov("slots", "sync")
    assert done.returncode == 0, done.stderr
    assert "20 slots of 31016 MB and 32 vCPUs (20 added); users who are logged in see new ones" in done.stdout
    assert site.computers == 20 + 3 + 1
    again = site.answer("slots", "sync")
    assert {row["change"] for row in again["changes"]} == {"kept"}
    assert [row["warning"] for row in again["warnings"] if row["hides_all"]] == []

    slots = site.answer("slots", "status")
    assert {(row["shown"], row["host"], row["problem"]) for row in slots} == {("offered", "esxprov-main.vcl.test", "")}
    assert "pool main: 20 offered\n" in site.esxprov("slots", "status").stdout

    assert {row["change"] for row in site.answer("slots", "prune", "--dry-run", most="15")} == {"close"}
    closing_ = site.esxprov("slots", "prune", most="15")
    assert closing_.stdout.endswith("run this again in a minute: then the closed ones are removed\n")
    shown = [row["shown"] for row in site.answer("slots", "status")]
    assert (shown.count("closed"), shown.count("offered")) == (5, 15)
    site.rows.execute("UPDATE esxprov_slot SET closed_at = closed_at - INTERVAL 61 SECOND")
    assert {row["change"] for row in site.answer("slots", "prune", most="15")} == {"removed"}
    assert site.computers == 15 + 3 + 1


def test_status_says_what_becomes_of_each_slot(site: FirstDay) -> None:
    assert site.esxprov("slots", "sync").returncode == 0
    rows = site.rows
    names = [f"vm0{number}.vcl.test" for number in range(1, 6)]
    ids = [int(rows.value("SELECT id FROM computer WHERE hostname = %s", name)) for name in names]
    image = rows.image("vmwarelinux-other-v0")
    rows.reservation(ids[0], image, int(rows.value("SELECT id FROM managementnode")))
    rows.execute("UPDATE computer SET currentimageid = %s WHERE id = %s", image.image_id, ids[1])
    rows.execute("UPDATE computer SET stateid = 5 WHERE id = %s", ids[2])
    rows.execute("UPDATE computer SET stateid = 10 WHERE id = %s", ids[3])
    rows.execute("UPDATE computer SET vmhostid = NULL WHERE id = %s", ids[4])
    found = {row["computer_id"]: row for row in site.answer("slots", "status")}
    assert [found[number]["shown"] for number in ids] == ["in use", "loaded", "failed", "admin", "closed"]
    assert [bool(found[number]["problem"]) for number in ids] == [False, False, True, True, True]
    assert found[ids[1]]["image"] == "vmwarelinux-other-v0"


def test_slots_by_hand_are_adopted_and_given_back(site: FirstDay, tmp_path: Path) -> None:
    rows, undo = site.rows, tmp_path / "undo.json"
    vmhost = rows.hypervisor("esx1.vcl.test", 8192, 4, int(rows.value("SELECT MAX(id) FROM vmprofile")))
    rows.computer("hand1.vcl.test", vmhost, 7, "00:50:56:02:00:01", "00:50:56:03:00:01")
    engine = "SELECT provisioningid FROM computer WHERE hostname = 'hand1.vcl.test'"
    assert [row["change"] for row in site.answer("slots", "adopt", "--dry-run")] == ["adopt"]
    done = site.esxprov("slots", "adopt", "--undo-file", str(undo))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"what they were is in {undo}: 'esxprov slots adopt --undo {undo}' gives them back\n")
    assert rows.value(engine) != 7
    assert [row["change"] for row in site.answer("slots", "adopt", "--undo", str(undo))] == ["given back"]
    assert rows.value(engine) == 7
    undo.write_text("{}")
    refused = site.esxprov("slots", "adopt", "--undo", str(undo))
    assert (refused.returncode, refused.stderr) == (
        78, f"esxprov: {undo} is no file that 'esxprov slots adopt' wrote\n"
    )  # fmt: skip


def test_what_hides_all_slots_ends_sync_with_1_and_the_slots_are_made(site: FirstDay) -> None:
    site.rows.execute("DELETE FROM resourcemap WHERE resourcetypeid1 = 16")
    done = site.esxprov("slots", "sync")
    assert done.returncode == 1
    assert "warning: pool main: no management node is mapped to the groups All VM Computers, newvmimages" in done.stdout
    assert site.computers == 24


@pytest.mark.parametrize(
    ("settings", "code", "sentence"),
    [
        ({"names": "a-very-long-name-for-a-slot-##.vcl.test"}, 78, "and VCL's computer.hostname holds 36"),
        ({"groups": "no such"}, 78, "VCL has no group of computers called 'no such'"),
        ({"schedule": "nights"}, 78, "VCL has no schedule 'nights'"),
    ],
)
def test_bad_settings_are_one_sentence_and_nothing_is_made(
    site: FirstDay, settings: dict[str, str], code: int, sentence: str
) -> None:
    done = site.esxprov("slots", "sync", **settings)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert sentence in line
    assert site.computers == 0


def test_without_its_section_there_is_nothing_to_plan(bed: Bed) -> None:
    done = bed.esxprov("slots", "plan")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == (
        "esxprov: no pool's slots are ours: write a section [slots POOL], with names and macs\n"
    )  # fmt: skip


def test_a_sync_that_is_killed_half_way_has_done_nothing_and_can_be_run_again(site: FirstDay) -> None:
    with closing(site.bed.mariadb.connect(database=NAME)) as other:
        with other.cursor() as cursor:
            cursor.execute("LOCK TABLES resource READ")
        command = [sys.executable, "-m", "esxprov.cli", *site.arguments("slots", "sync")]
        with subprocess.Popen(command, env=site.bed.environment(), stdout=subprocess.DEVNULL) as process:
            wait_until(site, "DB = %s AND STATE LIKE 'Waiting for table%%' AND INFO LIKE 'INSERT INTO resource %%'", 1)
            process.kill()
        with other.cursor() as cursor:
            cursor.execute("UNLOCK TABLES")
        wait_until(site, "DB = %s AND ID <> CONNECTION_ID()", 0)
    assert site.computers == 0
    assert site.esxprov("slots", "sync").returncode == 0
    assert site.computers == 24


def wait_until(site: FirstDay, condition: str, count: int) -> None:
    """Until so many of our user's connections to the database are as the condition says."""
    end = time.monotonic() + 30
    with closing(site.bed.mariadb.connect("esxprov", NAME)) as connection:
        rows = VclRows(connection)
        while rows.value(f"SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE {condition}", NAME) != count:
            assert time.monotonic() < end, condition
            time.sleep(0.02)
