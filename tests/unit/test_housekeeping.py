from __future__ import annotations

import logging
import threading

import pytest

from esxprov.clock import SystemClock
from esxprov.errors import DependencyUnavailable
from esxprov.housekeeping import Housekeeping


class Chore:
    """Counts its runs; the test waits for the one it wants."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.runs = 0
        self._ran = threading.Condition()

    def __call__(self) -> None:
        with self._ran:
            self.runs += 1
            self._ran.notify_all()
        if self._failures:
            raise self._failures.pop(0)

    def wait_for(self, runs: int) -> None:
        with self._ran:
            assert self._ran.wait_for(lambda: self.runs >= runs, timeout=10), f"{self.runs} of {runs} runs"


def test_a_chore_runs_at_its_interval() -> None:
    chore, house = Chore(), Housekeeping(SystemClock())
    house.every(0.01, "chore", chore)
    house.start()
    chore.wait_for(3)
    house.stop()


def test_a_chore_can_be_brought_forward() -> None:
    chore, house = Chore(), Housekeeping(SystemClock())
    house.every(3600, "chore", chore)
    house.start()
    house.soon("chore")
    chore.wait_for(1)
    house.stop()


def test_a_failing_chore_is_tried_again_and_complains_once(caplog: pytest.LogCaptureFixture) -> None:
    gone = DependencyUnavailable("the database is away")
    chore, house = Chore(gone, gone, gone), Housekeeping(SystemClock())
    house.every(0.01, "recover", chore)
    with caplog.at_level(logging.INFO):
        house.start()
        chore.wait_for(5)
        house.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "recover: the database is away",
        "recover works again",
    ]


def test_one_broken_chore_does_not_stop_the_others() -> None:
    broken, sound, house = Chore(*[ValueError("bug")] * 3), Chore(), Housekeeping(SystemClock())
    house.every(0.01, "broken", broken)
    house.every(0.01, "sound", sound)
    house.start()
    broken.wait_for(3)
    sound.wait_for(3)
    house.stop()


def test_it_stops_at_once_although_the_next_chore_is_an_hour_away() -> None:
    house = Housekeeping(SystemClock())
    house.every(3600, "chore", Chore())
    house.start()
    house.stop()
