"""How long what is known is good for, when a silent endpoint is tried again, and what ends the stream."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from esxprov import ports
from esxprov.model import EndpointConfig
from esxprov.vsphere.api import vim, vmodl
from esxprov.vsphere.properties import Found
from esxprov.vsphere.session import Session
from esxprov.vsphere.updates import Update
from esxprov.vsphere.watch import ALIVE_S, PAUSES_S, REFUSED_S, Watch, Watches, pause_s

_PATIENCE_S = 10.0
CONFIG = EndpointConfig("esx1", "https://esx1.example", "svc", "pw", timeout_s=30)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class Connected(Session):
    """A session whose server answers a poll with one host, or not at all."""

    def __init__(self, error: Exception | None = None, meanwhile: Callable[[], object] = lambda: None) -> None:
        super().__init__(CONFIG)

        def answer(specs: Any, options: Any) -> Any:
            meanwhile()
            if error is not None:
                raise error
            host = SimpleNamespace(obj=vim.HostSystem("ha-host"), propSet=[], missingSet=[])
            return SimpleNamespace(objects=[host], token=None)

        self.__dict__["content"] = SimpleNamespace(
            rootFolder=vim.Folder("ha-folder-root"), propertyCollector=SimpleNamespace(RetrievePropertiesEx=answer)
        )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[None]:
    """An entry for each change that was told."""
    return []


@pytest.fixture
def watch(clock: Clock, told: list[None]) -> Watch:
    """Without its thread: it knows what polls tell it."""
    return Watch(CONFIG, lambda: told.append(None), monotonic=clock)


def fail(watch: Watch) -> None:
    with pytest.raises(TimeoutError):
        watch.poll(Connected(TimeoutError()))


def test_what_was_never_seen_is_not_known(watch: Watch) -> None:
    assert watch.look() is None


def test_what_is_known_is_good_for_a_while_after_the_last_sign_of_life(watch: Watch, clock: Clock) -> None:
    watch.poll(Connected())
    clock.now += ALIVE_S
    known = watch.look()
    assert known is not None
    assert ([host.key.moid for host in known.hosts], known.age_s(clock.now)) == (["ha-host"], ALIVE_S)
    clock.now += 0.1
    assert watch.look() is None


def test_nobody_waits_for_an_endpoint_that_was_silent_just_now(watch: Watch, clock: Clock) -> None:
    fail(watch)
    known = watch.look()
    assert known is not None
    assert "did not answer within 30 s" in (known.problem or "")
    assert known.hosts == ()
    clock.now += CONFIG.timeout_s
    assert watch.look() is None


def test_silence_is_counted_from_its_beginning(watch: Watch, clock: Clock) -> None:
    fail(watch)
    clock.now += 40
    fail(watch)
    clock.now += 2
    known = watch.look()
    assert known is not None
    assert (known.problem or "").endswith("(for 42 s)")


def test_an_answer_ends_the_silence(watch: Watch) -> None:
    fail(watch)
    watch.poll(Connected())
    known = watch.look()
    assert known is not None
    assert (known.problem, len(known.hosts)) == (None, 1)


def test_a_question_without_answer_is_no_silence_if_others_were_answered_meanwhile(watch: Watch, clock: Clock) -> None:
    def answer_another() -> None:
        clock.now += 1
        watch.poll(Connected())

    with pytest.raises(TimeoutError):
        watch.poll(Connected(TimeoutError(), meanwhile=answer_another))
    known = watch.look()
    assert known is not None
    assert known.problem is None


def test_changes_silence_and_its_end_are_told_once_each(watch: Watch, told: list[None]) -> None:
    answers: Callable[[], object] = partial(watch.poll, Connected())
    fails: Callable[[], object] = partial(fail, watch)
    for times_told, happens in [(1, answers), (1, answers), (2, fails), (2, fails), (3, answers)]:
        happens()
        assert len(told) == times_told


def test_silent_endpoints_are_tried_less_and_less_often() -> None:
    assert [pause_s(failures, "host_unavailable") for failures in range(1, 9)] == [*PAUSES_S, 30, 30]


def test_a_refused_login_is_tried_so_seldom_that_the_account_is_not_locked() -> None:
    assert pause_s(1, "vsphere_auth") == REFUSED_S


def test_the_watches_are_what_looks_ask_for() -> None:
    watches: ports.Watches = Watches({"esx1": CONFIG})
    assert watches.look("esx1") is None
    assert watches.look("esx2") is None


# --- the thread ------------------------------------------------------------------------------------------------------


class Stream:
    """Begins with one VM; the first time it is waited for its changes it raises, then it waits for the end."""

    def __init__(self, error: Exception) -> None:
        self.begun = 0
        self.ended = threading.Event()
        self.waiting = threading.Event()
        self.errors = [error]

    def begin(self) -> list[Found]:
        self.begun += 1
        return [Found(vim.HostSystem(f"host-{self.begun}"), {})]

    def next(self, wait_s: int) -> list[Update]:
        if self.errors:
            raise self.errors.pop()
        self.waiting.set()
        assert self.ended.wait(_PATIENCE_S)
        return []


@pytest.mark.parametrize(
    "error",
    [
        vim.fault.NotAuthenticated(),
        vmodl.fault.ManagedObjectNotFound(),
        vmodl.query.InvalidCollectorVersion(),
        http.client.RemoteDisconnected(""),
        ssl.SSLEOFError(),
    ],
    ids=lambda error: type(error).__name__.rpartition(".")[2],
)
def test_a_lost_stream_is_begun_anew_at_once_and_is_no_silence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(error)
    monkeypatch.setattr("esxprov.vsphere.watch.Updates", lambda session: stream)
    monkeypatch.setattr("esxprov.vsphere.watch.PAUSES_S", (3600,))
    watch = Watch(CONFIG, lambda: None)
    watch.start()
    assert stream.waiting.wait(_PATIENCE_S)
    known = watch.look()
    watch.end()
    stream.ended.set()
    assert watch.join(time.monotonic() + _PATIENCE_S)
    assert known is not None
    assert ([host.key.moid for host in known.hosts], stream.begun) == (["host-2"], 2)
    assert caplog.messages == []


def test_an_error_that_nobody_thought_of_is_shown_and_does_not_end_the_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(KeyError("urn:vim25"))
    monkeypatch.setattr("esxprov.vsphere.watch.Updates", lambda session: stream)
    monkeypatch.setattr("esxprov.vsphere.watch.PAUSES_S", (0,))
    watch = Watch(CONFIG, lambda: None)
    watch.start()
    assert stream.waiting.wait(_PATIENCE_S)
    watch.end()
    stream.ended.set()
    assert watch.join(time.monotonic() + _PATIENCE_S)
    assert caplog.messages == ["watching esx1 failed"]


def test_the_end_does_not_wait_for_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = threading.Event()
    stream = Stream(TimeoutError())
    monkeypatch.setattr("esxprov.vsphere.watch.Updates", lambda session: stream)
    monkeypatch.setattr("esxprov.vsphere.watch.PAUSES_S", (3600,))
    watch = Watch(CONFIG, lambda: silent.set() if not stream.errors else None)
    watch.start()
    assert silent.wait(_PATIENCE_S)
    watch.end()
    assert watch.join(time.monotonic() + _PATIENCE_S)
