"""Deciding on a saved world: no server is asked, and a file that is wrong is told where."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given

from esxprov.cli import commands
from esxprov.cli.world import local_times
from esxprov.model import CatalogueImage, Claim, ClaimState, HostKey
from esxprov.placement.again import compare
from esxprov.placement.choose import choose_together, record
from esxprov.placement.snapshot import Rules, Snapshot
from esxprov.placement.world import World
from esxprov.plain import NotPlain, to_plain
from tests.unit.placement import test_moves as moves
from tests.unit.placement.worlds import REQUEST, machine, snapshots

IMAGES = (CatalogueImage("vmwarelinux-base9-v3", "Base", 1024, 1), CatalogueImage("vmwarewin10-v0", "Ten", 8192, 2))
NOW = 1_900_000_000


def world(*names: str, **changes: Any) -> World:
    hosts = tuple(replace(machine(name), **changes) for name in names)
    snapshot = Snapshot(hosts, rules=Rules(cpu_ratio=4, reserved_ram_mb=1024), at=NOW)
    return World("main", "blades", "nfs1", ("Private",), 1, IMAGES, snapshot)


@pytest.fixture
def esxprov(tmp_path: Path) -> Callable[..., Result]:
    def run(command: str, saved: World | dict[str, Any], *arguments: str) -> Result:
        path = tmp_path / "world.json"
        path.write_text(json.dumps(to_plain(saved)))
        return CliRunner().invoke(commands, [command, "--snapshot", str(path), *arguments])

    return run


Run = Callable[..., Result]


def test_place_says_how_many_go_where(esxprov: Run) -> None:
    done = esxprov("place", world("a", "b"), "--image", "Ten", "--count", "2", "--max-per-host", "1")
    assert (done.exit_code, sorted(done.stdout.splitlines())) == (0, ["a: 1 of 2", "b: 1 of 2"])


def test_place_says_what_would_help_and_with_explain_why_not(esxprov: Run) -> None:
    short = esxprov("place", world("a"), "--ram-mb", "8192", "--count", "2")
    assert (short.exit_code, short.stdout.splitlines()) == (
        1,
        [
            "nowhere: the hosts do not take all 2 VMs together",
            "it would fit if 1274 MB more RAM were free on a",
            "it would fit if only 1 of the 2 were asked for",
        ],
    )
    long = esxprov("place", world("a"), "--ram-mb", "8192", "--count", "2", "--explain")
    assert long.stdout.startswith(short.stdout)
    assert long.stdout.splitlines()[3].startswith("not a: 8317 MB of RAM asked (8192 and 125 overhead), 7043 MB free")


def test_with_explain_a_refusal_names_the_moves_that_would_help(esxprov: Run) -> None:
    snapshot = moves.world((moves.A, moves.B), moves.HALF_FULL)
    made = World("main", "blades", "nfs1", ("Private",), 1, IMAGES, snapshot)
    asked = ["--ram-mb", "6000"]
    assert "somebody" not in esxprov("place", made, *asked).stdout
    lines = esxprov("place", made, *asked, "--explain").stdout.splitlines()
    assert "it would fit if somebody did this: move vm2 from b to a" in lines
    suggested = json.loads(esxprov("place", made, *asked, "--explain", "--json").stdout)["suggestions"]
    assert suggested == [{"vm": "vm2", "source": "b", "target": "a"}]


def test_a_time_in_the_future_is_told_with_its_reservation(esxprov: Run) -> None:
    claim = Claim("c", HostKey("a", "ha-host"), 7, 14_000, 1, "e", ClaimState.RUNNING, reservation_id=812)
    made = world("a")
    claims = (replace(claim, ends_at=NOW + 60),)
    made = replace(made, snapshot=replace(made.snapshot, claims=claims))
    lines = esxprov("place", made, "--image", "Ten").stdout.splitlines()
    assert lines[-1].startswith("it would fit at 2030-03-1")
    assert lines[-1].endswith(" when reservation 812 ends")


def test_capacity_counts_each_image(esxprov: Run) -> None:
    done = esxprov("capacity", world("a", "b"))
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "pool main: what still fits now, each image for itself",
        "image                 ram mb  cpus  fits",
        "--------------------  ------  ----  ----",
        "vmwarelinux-base9-v3    1024     1    28",
        "vmwarewin10-v0          8192     2     2",
        "the largest VM: 15164 MB with 1 vCPU, or 16 vCPUs with little RAM",
    ]


def test_capacity_at_a_time(esxprov: Run) -> None:
    made = world("a")
    claim = Claim("c", HostKey("a", "ha-host"), 7, 10_000, 1, "e", ClaimState.RUNNING, ends_at=NOW + 60)
    made = replace(made, snapshot=replace(made.snapshot, claims=(claim,)))
    found = json.loads(esxprov("capacity", made, "--at", "2030-03-17T17:49:00Z", "--json").stdout)
    (pool,) = found["pools"]
    assert (pool["at"], pool["images"][1]["fits"]) == ("2030-03-17T17:49Z", 1)
    assert json.loads(esxprov("capacity", made, "--json").stdout)["pools"][0]["images"][1]["fits"] == 0


@pytest.mark.parametrize("text", ["00:00", "9:05", "23:59"])
def test_a_time_of_day_is_the_next_one_on_this_machine(esxprov: Run, text: str) -> None:
    (pool,) = json.loads(esxprov("capacity", world("a"), "--at", text, "--json").stdout)["pools"]
    then = datetime.fromisoformat(pool["at"]).astimezone()
    assert f"{then:%H:%M}" == text.zfill(5)
    assert 0 <= then.timestamp() - NOW < 86_400


def test_a_time_that_is_over_is_a_sentence(esxprov: Run) -> None:
    done = esxprov("capacity", world("a"), "--at", "2001-02-03 04:05")
    assert (done.exit_code, "which is over: it is 2030-03-17T17:46Z" in done.stderr) == (1, True)


@pytest.mark.parametrize("text", ["soon", "25:00", "12:60"])
def test_a_time_that_is_none_is_wrong_usage(esxprov: Run, text: str) -> None:
    done = esxprov("capacity", world("a"), "--at", text)
    assert done.exit_code == 2
    assert "expected a time like 15:50" in done.stderr


@pytest.mark.parametrize(
    ("made", "arguments", "sentence"),
    [
        (world(), ["place", "--ram-mb", "512"], "nowhere: the pool has no host"),
        (
            world("a", "b", maintenance=True),
            ["place", "--ram-mb", "512"],
            "nowhere: no host takes it: the host is in maintenance mode",
        ),
        (
            world("a", "b", maintenance=True),
            ["place", "--ram-mb", "512", "--count", "9"],
            "nowhere: the hosts do not take all 9 VMs together: the host is in maintenance mode",
        ),
        (world("a"), ["place", "--ram-mb", "99999"], "nowhere: no host takes it: 101039 MB of RAM asked (99996 and "),
        (world("a"), ["place", "--image", "Eleven"], "esxprov: VCL has no image 'Eleven' among its 2"),
        (world("a"), ["place", "--image", "tem"], "esxprov: VCL has no image 'tem', did you mean 'Ten'?"),
        (world(), ["capacity"], "esxprov: pool main has no host: see 'esxprov hosts'"),
        (
            world("a", "b", maintenance=True),
            ["capacity"],
            "esxprov: no host of pool main takes anything: the host is in maintenance mode",
        ),
    ],
)
def test_nothing_fits_is_a_sentence_and_exit_code_1(
    esxprov: Run, made: World, arguments: list[str], sentence: str
) -> None:
    done = esxprov(arguments[0], made, *arguments[1:])
    assert done.exit_code == 1
    assert sentence in done.output


# --- files that are wrong --------------------------------------------------------------------------------------------


def changed(path: str, value: object) -> dict[str, Any]:
    """A saved world with one field set, or, with None, left out."""
    data: Any = to_plain(world("a"))
    *parents, last = path.split(".")
    part = data
    for name in parents:
        part = part[int(name) if name.isdigit() else name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    whole: dict[str, Any] = data
    return whole


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("pool", None, "pool is missing"),
        ("snapshot.hosts.0.ram_mb", None, "snapshot.hosts[0].ram_mb is missing"),
        ("snapshot.hosts.0.colour", "red", "snapshot.hosts[0].colour is unknown; there are: "),
        ("snapshot.hosts.0.ram_mb", "big", 'snapshot.hosts[0].ram_mb is "big", expected a whole number'),
        ("snapshot.hosts.0.ram_mb", -1, "snapshot.hosts[0].ram_mb is -1, expected 0 or more"),
        ("images.0.cpus", 0, "images[0].cpus is 0, expected 1 or more"),
        ("disk_share", 0, "disk_share is 0, expected 1 or more"),
        ("snapshot.rules.cpu_ratio", 0, "snapshot.rules.cpu_ratio is 0, expected 0.01 or more"),
        ("snapshot.rules.policy", "luck", 'snapshot.rules.policy is "luck", expected pack or spread'),
    ],
)
@pytest.mark.parametrize("command", [("place", "--ram-mb", "512"), ("capacity",)], ids=["place", "capacity"])
def test_a_field_that_is_wrong_is_named(
    esxprov: Run, command: tuple[str, ...], path: str, value: object, sentence: str
) -> None:
    done = esxprov(command[0], changed(path, value), *command[1:])
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"world.json: {sentence}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_no_json_is_told(tmp_path: Path) -> None:
    path = tmp_path / "world.json"
    path.write_text("{")
    done = CliRunner().invoke(commands, ["capacity", "--snapshot", str(path)])
    assert (done.exit_code, "world.json cannot be read as JSON: " in done.stderr) == (1, True)


@given(snapshots())
def test_a_world_survives_json(made: Snapshot) -> None:
    whole = World("main", "blades", "nfs1", ("Private",), 4, IMAGES, made, {"esx9": "it is away"})
    assert World.from_json(json.loads(json.dumps(to_plain(whole)))) == whole


# --- times and decisions of the past ---------------------------------------------------------------------------------


def test_times_are_told_as_the_clock_on_the_wall_shows_them() -> None:
    assert local_times("at 2001-02-03T04:05Z when reservation 8 ends").endswith(":05 when reservation 8 ends")
    assert "Z" not in local_times("at 2001-02-03T04:05Z when it ends")


def test_a_decision_that_is_the_same_today_says_so() -> None:
    snapshot = world("a", "b").snapshot
    found = compare(record((REQUEST,), snapshot, choose_together((REQUEST,), snapshot)))
    (vm,) = found["vms"]
    assert (found["same"], found["refused"], vm["host_then"]) == (True, [], vm["host_now"])


def test_a_decision_that_differs_today_says_where_and_why() -> None:
    snapshot = world("a").snapshot
    drained = world("a", maintenance=True).snapshot
    then = choose_together((REQUEST,), drained)
    found = compare(record((REQUEST,), snapshot, then))
    assert found == {
        "same": False,
        "vms": [
            {
                "vm": "event-1",
                "host_then": None,
                "host_now": "a",
                "reason_then": "no host takes it",
                "reason_now": "the only host that takes it",
            }
        ],
        "refused": [{"host": "a", "then": "the host is in maintenance mode", "now": None}],
    }


def test_a_recorded_decision_that_cannot_be_read_names_the_field() -> None:
    data = record((REQUEST,), Snapshot(()), choose_together((REQUEST,), Snapshot(())))
    data["requests"][0]["ram_mb"] = "big"
    with pytest.raises(NotPlain, match=r"requests\[0\].ram_mb is"):
        compare(data)
