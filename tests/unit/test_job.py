from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bridge import envelope
from esxprov import request
from esxprov.errors import Cancelled, HandedOver, OwnershipLost, ProvisioningError
from esxprov.job import Job, cancelled
from tests.unit.world import FakeClock, World


class Book:
    """What was written down."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, dict[str, Any]]] = []
        self.decisions: list[dict[str, Any] | None] = []

    def step(self, name: str, steps: dict[str, Any], decision: dict[str, Any] | None) -> None:
        self.entries.append((name, dict(steps)))
        self.decisions.append(decision)


def make(steps: dict[str, Any] | None = None, timeout_s: float = 60) -> tuple[Job, Book, World, list[tuple[Any, ...]]]:
    world, book, notes = World(), Book(), []
    event = envelope.request("load", source="urn:test", data={}, now=world.now, timeout_s=timeout_s)

    def notify(step: str, message: str, loadstate: str | None, percent: int | None) -> None:
        notes.append((step, loadstate, percent))

    job = Job(event, request.read(event), book=book, notify=notify, clock=FakeClock(world), steps=steps)
    return job, book, world, notes


def test_a_step_is_written_down_before_it_is_done_with_the_results_of_those_before() -> None:
    job, book, _, _ = make()
    with job.step("place", "placing") as step:
        assert book.entries == [("place", {})]
        step.keep(host="esx1")
    with job.step("copy", "copying"):
        assert book.entries[-1] == ("copy", {"place": {"host": "esx1"}})


def test_a_job_that_is_resumed_finds_the_results_of_its_steps() -> None:
    job, _, _, _ = make(steps={"place": {"host": "esx1"}})
    with job.step("place", "placing") as step:
        assert step.result == {"host": "esx1"}


def test_forgetting_a_step_makes_it_undone() -> None:
    job, _, _, _ = make(steps={"place": {"host": "esx1"}, "copy": {}})
    job.forget("place", "never_done")
    assert job.steps == {"copy": {}}


@pytest.mark.parametrize("reason", [cancelled("not wanted"), HandedOver(), OwnershipLost()])
def test_an_interrupt_is_honoured_at_the_next_border_and_not_before(reason: Exception) -> None:
    job, _, _, _ = make()
    with job.step("copy", "copying"):
        job.interrupt(reason)
    with pytest.raises(type(reason)), job.step("move", "moving"):
        raise AssertionError("entered")


def test_progress_of_a_long_step_is_a_border_too() -> None:
    job, _, _, _ = make()
    with job.step("copy", "copying") as step:
        step.progress(10)
        job.interrupt(cancelled("not wanted"))
        with pytest.raises(Cancelled):
            step.progress(20)


def test_the_first_reason_to_stop_counts_but_a_lost_ownership_always_does() -> None:
    job, _, _, _ = make()
    job.interrupt(cancelled("not wanted"))
    job.interrupt(HandedOver())
    with pytest.raises(Cancelled):
        job.check()
    job.interrupt(OwnershipLost())
    with pytest.raises(OwnershipLost):
        job.check()


def test_past_the_deadline_the_error_names_the_step() -> None:
    job, _, world, _ = make(timeout_s=10)
    with job.step("copy_disk", "copying"):
        world.now += timedelta(seconds=11)
        assert job.interrupted()
    with pytest.raises(ProvisioningError, match="it was at step copy_disk") as caught:
        job.check()
    assert caught.value.code == "deadline_exceeded"


def test_progress_goes_forward_only() -> None:
    job, _, _, notes = make()
    with job.step("copy", "copying", "transfervm") as step:
        for percent in (10, 10, 5, 20):
            step.progress(percent)
    assert notes == [("copy", "transfervm", None), ("copy", "transfervm", 10), ("copy", "transfervm", 20)]


def test_remaining_time_is_that_of_the_event() -> None:
    job, _, world, _ = make(timeout_s=60)
    world.now = datetime(2026, 11, 22, 5, 41, 17, tzinfo=UTC)
    assert job.remaining_s() == 50


def test_a_decision_is_written_down_once_at_the_next_border() -> None:
    job, book, _, _ = make()
    with job.step("place", "asking"):
        job.decided({"host": "esx1"})
    for name in ("clear", "copy"):
        with job.step(name, name):
            pass
    assert book.decisions == [None, {"host": "esx1"}, None]
