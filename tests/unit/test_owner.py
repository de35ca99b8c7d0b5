"""Telling a dead predecessor from one that may still live."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from esxprov import owner

SAY_MYSELF = "from esxprov import owner; print(owner.myself(), flush=True); input()"


def test_a_living_process_is_not_dead_and_a_killed_one_is() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SAY_MYSELF], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        assert not owner.is_known_dead(name)
        other.kill()
        other.wait()
    assert owner.is_known_dead(name)


def test_a_reused_process_id_is_another_process() -> None:
    host, space, pid, _ = owner.myself().split("/")
    assert owner.is_known_dead(f"{host}/{space}/{pid}/1")


@pytest.mark.parametrize("stranger", ["", "mn1", "mn1/other-1/99999999/5", "mn1-4711-0a1b2c3d", "mn1/{space}/x/5"])
def test_of_a_stranger_nothing_is_known(stranger: str) -> None:
    space = owner.myself().split("/")[1]
    assert not owner.is_known_dead(stranger.replace("{space}", space))


def test_the_name_fits_its_column() -> None:
    assert len(owner.myself().replace(str(os.getpid()), "4194304")) <= 64
