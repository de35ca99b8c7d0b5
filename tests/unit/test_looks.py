"""Looking at endpoints: side by side, shared by those who wait, and from memory only for who makes do with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import pytest

from esxprov.errors import ProvisioningError
from esxprov.looks import RECENT_S, Looks
from esxprov.model import Vm
from esxprov.ports import Hypervisors, Look, Watches

_PATIENCE_S = 10.0


class Endpoint:
    """Says how often it was asked, in the name of its only VM; `on_look` is called with that number."""

    def __init__(self, name: str, on_look: Callable[[int], object]) -> None:
        self._name = name
        self._on_look = on_look
        self._asked = 0

    def look(self) -> Look:
        self._asked += 1
        self._on_look(self._asked)
        return Look(self._name, vms=(cast(Vm, self._asked),))


class Endpoints:
    def __init__(self, **on_look: Callable[[int], object]) -> None:
        self._known = {name: Endpoint(name, called) for name, called in on_look.items()}

    def endpoint(self, name: str) -> Any:
        return self._known[name]


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def looks_at(
    clock: Callable[[], float] = time.monotonic, watches: Watches | None = None, **on_look: Callable[[int], object]
) -> Looks:
    return Looks(cast(Hypervisors, Endpoints(**on_look)), clock, watches=watches)


def number(looks: Sequence[Look]) -> int:
    return cast(int, looks[0].vms[0])


def test_who_asks_while_an_old_look_is_under_way_gets_the_next_one(callers: ThreadPoolExecutor) -> None:
    begun, go_on, clock = threading.Event(), threading.Event(), Clock()

    def first_takes_long(number: int) -> None:
        begun.set()
        assert number > 1 or go_on.wait(_PATIENCE_S)

    looks = looks_at(clock, esx1=first_takes_long)
    first = callers.submit(looks.at, ["esx1"])
    assert begun.wait(_PATIENCE_S)
    clock.now += 2 * RECENT_S
    late = callers.submit(looks.at, ["esx1"])
    go_on.set()
    assert (number(first.result(_PATIENCE_S)), number(late.result(_PATIENCE_S))) == (1, 2)
    looks.close()


def test_those_who_ask_before_a_look_begins_share_it(callers: ThreadPoolExecutor) -> None:
    begun, go_on, clock = threading.Event(), threading.Event(), Clock()

    def first_takes_long(number: int) -> None:
        begun.set()
        assert number > 1 or go_on.wait(_PATIENCE_S)

    looks = looks_at(clock, esx1=first_takes_long)
    callers.submit(looks.at, ["esx1"])
    assert begun.wait(_PATIENCE_S)
    clock.now += 2 * RECENT_S
    late = [callers.submit(looks.at, ["esx1"]) for _ in range(3)]
    go_on.set()
    assert [number(asked.result(_PATIENCE_S)) for asked in late] == [2, 2, 2]
    looks.close()


def test_who_asks_after_a_look_began_gets_another() -> None:
    clock = Clock()
    looks = looks_at(clock, esx1=lambda _: None)
    seen = []
    for _ in range(3):
        clock.now += 0.001
        seen.append(number(looks.at(["esx1"])))
    assert seen == [1, 2, 3]
    looks.close()


def test_a_recent_look_will_do_for_who_says_so() -> None:
    clock = Clock()
    looks = looks_at(clock, esx1=lambda _: None)
    seen = []
    for passed_s in (0, RECENT_S / 2, RECENT_S, 0):
        clock.now += passed_s
        seen.append(number(looks.at(["esx1"], recent=True)))
    assert seen == [1, 1, 2, 2]
    looks.close()


def test_endpoints_are_looked_at_side_by_side() -> None:
    together = threading.Barrier(2)

    def meet(_: int) -> None:
        together.wait(_PATIENCE_S)

    looks = looks_at(esx1=meet, esx2=meet)
    assert [look.endpoint for look in looks.at(["esx2", "esx1"])] == ["esx2", "esx1"]
    looks.close()


def test_an_endpoint_that_does_not_answer_says_why_and_holds_up_no_other() -> None:
    def silent(_: int) -> None:
        raise ProvisioningError("host_unavailable", "esx1 is silent")

    looks = looks_at(esx1=silent, esx2=lambda _: None)
    assert [look.problem for look in looks.at(["esx1", "esx2"])] == ["esx1 is silent", None]
    looks.close()


def test_who_will_not_wait_for_an_endpoint_learns_of_the_others() -> None:
    go_on = threading.Event()

    def takes_long(_: int) -> None:
        go_on.wait(_PATIENCE_S)

    looks = looks_at(esx1=lambda _: None, esx2=takes_long)
    quick, slow = looks.at(["esx1", "esx2"], within_s=0.2)
    assert (quick.problem, slow.problem) == (None, "it has not answered within 0.2 s")
    go_on.set()
    looks.close()


# --- with a watch ----------------------------------------------------------------------------------------------------


class Watch:
    """Knows of every endpoint what it is told to, and nothing of those it is not told of."""

    def __init__(self, *known: Look) -> None:
        self.known = {look.endpoint: look for look in known}

    def look(self, endpoint: str) -> Look | None:
        return self.known.get(endpoint)

    def on_change(self, callback: Callable[[str], object]) -> None:
        raise NotImplementedError


def test_a_recent_look_is_what_is_known_and_others_are_asked() -> None:
    known = Look("esx1", vms=(cast(Vm, 7),))
    looks = looks_at(watches=Watch(known), esx1=lambda _: None, esx2=lambda _: None)
    assert looks.at(["esx2", "esx1"], recent=True) == [Look("esx2", vms=(cast(Vm, 1),)), known]
    looks.close()


def test_of_an_endpoint_known_to_be_silent_a_recent_look_says_so_without_asking() -> None:
    asked: list[int] = []
    silent = Look("esx1", problem="esx1 is silent (for 42 s)")
    looks = looks_at(watches=Watch(silent), esx1=asked.append)
    assert looks.at(["esx1"], recent=True) == [silent]
    assert asked == []
    looks.close()


def test_who_needs_the_truth_asks_whatever_is_known() -> None:
    looks = looks_at(watches=Watch(Look("esx1", problem="esx1 is silent")), esx1=lambda _: None)
    assert looks.at(["esx1"]) == [Look("esx1", vms=(cast(Vm, 1),))]
    looks.close()


def test_an_endpoint_that_still_does_not_answer_says_for_how_long() -> None:
    def silent(_: int) -> None:
        raise ProvisioningError("host_unavailable", "esx1 is silent")

    looks = looks_at(watches=Watch(Look("esx1", problem="esx1 is silent (for 42 s)")), esx1=silent)
    assert [look.problem for look in looks.at(["esx1"])] == ["esx1 is silent (for 42 s)"]
    looks.close()
