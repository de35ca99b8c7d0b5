"""A service's questions and a publisher's answers, over a wire that loses, delays and repeats as the test likes."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

import pytest

import bridge
from bridge import lease as talk
from bridge.envelope import EnvelopeError, Event, encode
from bridge.message import Delivery
from esxprov.errors import ProvisioningError
from esxprov.leases.bus import Bus
from esxprov.leases.follower import LeaseFile
from esxprov.leases.publisher import Publisher
from esxprov.leases.source import Source
from esxprov.leases.wait import FreshLeases
from esxprov.leases.watcher import LeaseWatcher
from esxprov.model import Lease
from esxprov.plain import from_plain, to_plain
from tests.unit.leases.test_follower import append
from tests.unit.leases.written import record

A, B = "00:50:56:01:00:1b", "00:50:56:01:00:1c"
USER = "esxprov-leases"
SOON_S = 10.0
ASK_S = 0.05


def now() -> int:
    return int(time.time())


def lease_of(ip: str, mac: str = A, *, heard: int = 0) -> bytes:
    """A record of now, or of `heard` seconds ago."""
    return record(ip, mac, starts=now() - heard, ends=now() + 7200)


@dataclass
class Wire:
    """Both ways between a service and its publishers. `lost` says which of them do not arrive."""

    publishers: dict[str, Publisher] = field(default_factory=dict)
    bus: Bus | None = None
    questions: list[Event] = field(default_factory=list)
    user: str = USER
    lost: Callable[[Event], bool] = lambda _: False
    answers: SimpleQueue[Event] = field(default_factory=SimpleQueue)

    def ask(self, event: Event) -> None:
        self.questions.append(event)
        if not self.lost(event):
            for publisher in list(self.publishers.values()):
                publisher.on_delivery(self.delivery(event))

    def answer(self, node: str, event: Event) -> None:
        assert node == "mn1"
        self.answers.put(event)
        if self.bus and not self.lost(event):
            self.bus.on_delivery(self.delivery(event))

    def delivery(self, event: Event) -> Delivery:
        return Delivery(encode(event), "mn1.key", False, 1, 1, user_id=self.user)


@dataclass
class Bench:
    """One DHCP server's file with its publisher, and a service that hears of it on the bus only."""

    path: Path
    watcher: LeaseWatcher
    wire: Wire
    source: FreshLeases
    publish: Callable[[], None]

    def wait(self, armed: object, timeout_s: float = SOON_S, mac: str = A) -> Lease:
        return self.source.wait(mac, armed, timeout_s, lambda: False)  # type: ignore[arg-type]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    path = tmp_path / "dhcpd.leases"
    path.write_bytes(lease_of("10.77.1.9", heard=600))
    wire = Wire()
    wire.bus = Bus("mn1", USER, wire.ask, ask_s=ASK_S)
    watcher = LeaseWatcher(LeaseFile(path))
    started: list[Publisher] = []

    def publish() -> None:
        publisher = Publisher(FreshLeases([watcher]), "dhcp1", wire.answer)
        publisher.start()
        started.append(publisher)
        wire.publishers["dhcp1"] = publisher

    with watcher:
        publish()
        yield Bench(path, watcher, wire, FreshLeases([wire.bus]), publish)
        wire.publishers.clear()
        for publisher in started:
            publisher.stop()


def test_a_lease_that_is_written_elsewhere_wakes_who_waits_for_it(bench: Bench) -> None:
    armed = bench.source.arm(A)
    writing = threading.Timer(0.1, append, [bench.path, lease_of("10.77.1.10")])
    writing.start()
    lease = bench.wait(armed)
    assert (lease.ip, lease.mac, lease.evidence) == ("10.77.1.10", A, "lease-file")
    writing.join()


def test_a_lease_from_before_the_question_is_no_answer_but_is_told_of(bench: Bench) -> None:
    with pytest.raises(ProvisioningError) as caught:
        bench.wait(bench.source.arm(A), 0.3)
    assert "dhcp1: an active lease 10.77.1.9 from before power-on exists" in caught.value.message
    assert "dhcp-cache-threshold 0;" in caught.value.message


def test_the_place_in_the_file_counts_and_not_the_clock_of_the_dhcp_server(bench: Bench) -> None:
    armed = bench.source.arm(A)
    append(bench.path, record("10.77.1.10", A, starts=now() - 3000, ends=now() + 3000))
    assert bench.wait(armed).ip == "10.77.1.10"


def test_without_a_publisher_the_error_says_so(bench: Bench) -> None:
    bench.wire.publishers.clear()
    with pytest.raises(ProvisioningError, match="nobody on the bus has answered: run 'esxprov leases publish'"):
        bench.wait(bench.source.arm(A), 0.1)


def test_a_publisher_that_starts_late_finds_what_was_written_meanwhile(bench: Bench) -> None:
    bench.wire.publishers.clear()
    armed = bench.source.arm(A)
    append(bench.path, lease_of("10.77.1.10"))
    bench.publish()
    assert bench.wait(armed).ip == "10.77.1.10"


def test_a_first_question_that_was_late_does_not_hide_what_was_written_before_it_came(bench: Bench) -> None:
    bench.wire.lost = lambda event: True
    armed = bench.source.arm(A)
    first = bench.wire.questions[0]
    append(bench.path, lease_of("10.77.1.10", heard=4))
    publisher = bench.wire.publishers["dhcp1"]
    publisher.on_delivery(bench.wire.delivery(first))
    bench.wire.lost = lambda event: False
    later = talk.wanted(first.id, "mn1", A, 5.0, datetime.now(UTC))
    publisher.on_delivery(bench.wire.delivery(later))
    assert bench.wait(armed).ip == "10.77.1.10"


@pytest.mark.parametrize("times", [1, 5])
def test_an_answer_that_was_lost_is_asked_for_again(bench: Bench, times: int) -> None:
    lost: list[Event] = []

    def loses(event: Event) -> bool:
        if "lease" in event.data and len(lost) < times:
            lost.append(event)
            return True
        return False

    bench.wire.lost = loses
    armed = bench.source.arm(A)
    append(bench.path, lease_of("10.77.1.10"))
    assert bench.wait(armed).ip == "10.77.1.10"
    assert len(lost) == times


def test_what_was_armed_before_a_restart_of_the_service_is_found_by_its_age(bench: Bench) -> None:
    append(bench.path, lease_of("10.77.1.10", heard=20))
    assert bench.wait(bench.source.rearm(A, time.time() - 30)).ip == "10.77.1.10"
    with pytest.raises(ProvisioningError):
        bench.wait(bench.source.rearm(A, time.time() - 10), 0.2)


def test_a_card_whose_mac_is_known_only_later_is_asked_for_then(bench: Bench) -> None:
    armed = bench.source.arm(None)
    assert bench.wire.questions == []
    append(bench.path, lease_of("10.77.1.10"))
    assert bench.wait(armed).ip == "10.77.1.10"


def test_an_address_that_was_declined_before_anybody_asked_again_is_not_answered(bench: Bench) -> None:
    bench.wire.lost = lambda event: "lease" in event.data
    armed = bench.source.arm(A)
    append(bench.path, lease_of("10.77.1.10"))
    bench.watcher.mark()  # read by now: of two records of an address read at once only the last would be known
    append(bench.path, record("10.77.1.10", None, "abandoned") + record("10.77.1.9", A, "free"))
    bench.watcher.mark()
    bench.wire.ask(bench.wire.questions[0])
    while "declined" not in bench.wire.answers.get(timeout=SOON_S).data["says"]:
        pass  # what was said before
    bench.wire.lost = lambda event: False
    with pytest.raises(ProvisioningError, match=r"dhcp1: the VM got 10\.77\.1\.10 and declined it"):
        bench.wait(armed, 1.3)


def test_of_two_dhcp_servers_the_one_that_knows_nothing_takes_nothing_back(bench: Bench, tmp_path: Path) -> None:
    other = tmp_path / "other.leases"
    other.touch()
    with LeaseWatcher(LeaseFile(other)) as watcher:
        second = Publisher(FreshLeases([watcher]), "dhcp2", bench.wire.answer)
        second.start()
        armed = bench.source.arm(A)
        append(bench.path, lease_of("10.77.1.10"))
        assert bench.wait(armed).ip == "10.77.1.10"
        bench.wire.publishers["dhcp2"] = second
        bench.wire.ask(talk.wanted(bench.wire.questions[0].id, "mn1", A, 1, datetime.now(UTC)))
        assert bench.wait(armed).ip == "10.77.1.10"
        second.stop()


def test_only_the_broker_user_of_publishers_is_believed(bench: Bench) -> None:
    bench.wire.user = "vcld"
    armed = bench.source.arm(A)
    append(bench.path, lease_of("10.77.1.10"))
    with pytest.raises(ProvisioningError, match="nobody on the bus has answered"):
        bench.wait(armed, 0.3)


def test_what_nobody_waits_for_any_more_is_not_remembered(bench: Bench) -> None:
    armed = bench.source.arm(A)
    assert bench.wire.bus is not None
    assert len(bench.wire.bus._questions) == 1
    del armed
    gc.collect()
    assert len(bench.wire.bus._questions) == 0


def test_the_publisher_asks_its_witnesses_about_what_is_not_written(bench: Bench) -> None:
    @dataclass
    class Witness:
        def lease(self, mac: str, candidates: Sequence[Lease], since: float) -> Lease | None:
            return replace(candidates[0], evidence="neighbour") if candidates else None

        def says(self) -> str:
            return "nobody was asked"

    with LeaseWatcher(LeaseFile(bench.path)) as watcher:
        publisher = Publisher(FreshLeases([watcher], [Witness]), "dhcp2", bench.wire.answer)
        publisher.start()
        bench.wire.publishers["dhcp1"] = publisher
        lease = bench.wait(bench.source.rearm(A, time.time() - 60))
        publisher.stop()
    assert (lease.ip, lease.evidence) == ("10.77.1.9", "neighbour")


def test_a_file_here_and_the_bus_are_sources_side_by_side(bench: Bench, tmp_path: Path) -> None:
    own = tmp_path / "own.leases"
    own.touch()
    assert bench.wire.bus is not None
    with LeaseWatcher(LeaseFile(own)) as watcher:
        sources: list[Source] = [watcher, bench.wire.bus]
        both = FreshLeases(sources)
        armed_a, armed_b = both.arm(A), both.arm(B)
        append(own, lease_of("10.78.1.11", B))
        append(bench.path, lease_of("10.77.1.10"))
        assert both.wait(B, armed_b, SOON_S, lambda: False).ip == "10.78.1.11"
        assert both.wait(A, armed_a, SOON_S, lambda: False).ip == "10.77.1.10"
        with pytest.raises(ProvisioningError) as caught:
            both.wait(A, both.arm(A), 0.3, lambda: False)
    assert "no lease of this MAC at all" in caught.value.message
    assert "dhcp1: an active lease" in caught.value.message


# --- the wire ---------------------------------------------------------------------------------------------------------

EXAMPLES = Path(bridge.__file__).parent / "examples" / "lease"


def test_the_golden_question_is_understood_and_asked_like_that() -> None:
    body = (EXAMPLES / "vcl.lease.requested.v1.json").read_bytes()
    question = talk.read_wanted(body)
    assert (question.node, question.mac, question.age_s, question.is_early) == ("mn1", A, 0.0, True)
    event = question.event
    again = talk.wanted(event.id, "mn1", A, 0.0, event.time, is_early=True)
    assert json.loads(encode(again)) == json.loads(body)


@pytest.mark.parametrize("phase", ["progressed", "finished"])
def test_the_golden_answers_are_understood_and_given_like_that(phase: str) -> None:
    body = (EXAMPLES / f"vcl.lease.{phase}.v1.json").read_bytes()
    seen = talk.read_seen(body)
    golden = json.loads(body)
    assert (seen.id, seen.by, seen.says) == (golden["causationid"], golden["data"]["by"], golden["data"]["says"])
    lease = None if seen.lease is None else from_plain(Lease, seen.lease)
    question = talk.read_wanted((EXAMPLES / "vcl.lease.requested.v1.json").read_bytes()).event
    moment = datetime.fromisoformat(golden["time"])
    answer = talk.seen(question, moment, seen.by, seen.says, None if lease is None else to_plain(lease))
    assert json.loads(encode(replace(answer, id=golden["id"]))) == golden


# --- what is no talk --------------------------------------------------------------------------------------------------

QUESTION = talk.wanted("q1", "mn1", A, 1.5, datetime.now(UTC))


@pytest.mark.parametrize(
    "event",
    [
        replace(QUESTION, source="urn:vcl:mn:../x"),
        replace(QUESTION, data={"mac": A}),
        replace(QUESTION, data={"mac": A, "age_s": True}),
        replace(QUESTION, data={"mac": 7, "age_s": 1}),
        replace(QUESTION, call="load"),
        talk.seen(QUESTION, datetime.now(UTC), "dhcp1", "", None),
    ],
)
def test_what_is_no_question_is_refused(event: Event) -> None:
    with pytest.raises(EnvelopeError):
        talk.read_wanted(encode(event))


@pytest.mark.parametrize(
    "event",
    [
        QUESTION,
        replace(talk.seen(QUESTION, datetime.now(UTC), "dhcp1", "", None), causationid=None),
        replace(talk.seen(QUESTION, datetime.now(UTC), "dhcp1", "", None), data={"by": "dhcp1"}),
        replace(talk.seen(QUESTION, datetime.now(UTC), "dhcp1", "", {}), data={"by": "x", "says": "", "lease": 7}),
    ],
)
def test_what_is_no_answer_is_refused(event: Event) -> None:
    with pytest.raises(EnvelopeError):
        talk.read_seen(encode(event))


@pytest.mark.parametrize("lease", [{}, {"ip": "10.77.1.10"}, {"ip": "x", "mac": A, "state": "active"}])
def test_an_answer_with_a_lease_that_is_none_is_dropped(bench: Bench, lease: dict[str, object]) -> None:
    bench.wire.publishers.clear()
    armed = bench.source.arm(A)
    bench.wire.answer("mn1", talk.seen(bench.wire.questions[0], datetime.now(UTC), "dhcp1", "", lease))
    with pytest.raises(ProvisioningError, match="nobody on the bus"):
        bench.wait(armed, 0.1)


def test_bytes_that_are_no_question_do_not_end_the_publisher(bench: Bench) -> None:
    publisher = bench.wire.publishers["dhcp1"]
    for body in (b"", b"{}", b"\xff", encode(replace(QUESTION, data={"mac": "x", "age_s": 0}))):
        publisher.on_delivery(replace(bench.wire.delivery(QUESTION), body=body))
    armed = bench.source.arm(A)
    append(bench.path, lease_of("10.77.1.10"))
    assert bench.wait(armed).ip == "10.77.1.10"
