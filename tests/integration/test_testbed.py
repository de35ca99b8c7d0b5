"""The test bed from the command line: what it starts it ends, however it ends, and two of them do not meet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.processes import Recorded

REPOSITORY = Path(__file__).parents[2]


def testbed(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.testbed", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)


testbed.__test__ = False  # type: ignore[attr-defined]


def up(directory: Path) -> dict[str, Any]:
    done = testbed("up", "--dir", str(directory), "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def recorded(told: dict[str, Any]) -> list[Recorded]:
    return [Recorded.of(server["name"], server["pid"]) for server in told["servers"]]


def in_memory(told: dict[str, Any]) -> Path:
    """The scratch directory of the database."""
    (where,) = [server["where"] for server in told["servers"] if server["name"] == "mariadb"]
    return Path(where.partition(", ")[2]).parent


@pytest.fixture
def directories(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    pair = tmp_path / "a", tmp_path / "b"
    yield pair
    for directory in pair:
        testbed("down", "--dir", str(directory))


def test_two_beds_run_side_by_side_and_each_is_gone_after_its_end(directories: tuple[Path, Path]) -> None:
    first, second = directories
    beds = [up(first), up(second)]
    ports = [server["where"] for told in beds for server in told["servers"] if server["where"] != "-"]
    assert len(set(ports)) == len(ports)
    command = [sys.executable, "-m", "esxprov.cli", "--conf", beds[1]["conf"], "check-config"]
    check = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")
    assert testbed("down", "--dir", str(first)).returncode == 0
    assert [server.name for server in recorded(beds[0]) if server.is_alive()] == []
    assert [server.name for server in recorded(beds[1]) if not server.is_alive()] == []
    assert testbed("down", "--dir", str(second)).returncode == 0
    assert not in_memory(beds[0]).exists()
    assert not in_memory(beds[1]).exists()


def test_the_servers_of_a_keeper_that_was_killed_are_gone_with_it(directories: tuple[Path, Path]) -> None:
    told = up(directories[0])
    servers = recorded(told)
    os.kill(told["keeper"]["pid"], signal.SIGKILL)
    for server in servers:
        server.wait(10)
    again = up(directories[0])
    assert not in_memory(told).exists()
    assert [server.name for server in recorded(again) if not server.is_alive()] == []


def test_a_bed_is_not_started_twice_in_one_directory(directories: tuple[Path, Path]) -> None:
    up(directories[0])
    again = testbed("up", "--dir", str(directories[0]))
    assert (again.returncode, again.stdout) == (1, "")
    assert "runs in" in again.stderr


def test_down_where_nothing_was_started_says_so(tmp_path: Path) -> None:
    done = testbed("down", "--dir", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"testbed: No test bed was started in {tmp_path}.\n"
