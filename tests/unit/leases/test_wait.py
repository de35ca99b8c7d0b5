"""Waiting for an address where the lease file says nothing: who is asked, what is believed, what is said at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from esxprov.errors import ProvisioningError
from esxprov.leases.follower import LeaseFile
from esxprov.leases.omapi import OmapiError, OmapiLease
from esxprov.leases.wait import FreshLeases
from esxprov.leases.watcher import LeaseWatcher
from esxprov.leases.witnesses import Answers, DhcpdItself, Guest, Neighbour, Witness
from esxprov.model import Lease
from tests.unit.leases.written import NOW, record

MAC = "00:50:56:01:00:1b"
OTHER = "00:50:56:01:00:1c"

OLD = Lease("10.77.1.9", MAC, "active", NOW - 600, NOW + 6600, NOW - 600)


@dataclass
class Dhcpd:
    """What dhcpd would say by OMAPI."""

    known: Sequence[OmapiLease] = ()
    broken: bool = False
    ended: list[str] = field(default_factory=list)

    def leases(self, mac: str, candidates: Iterable[str]) -> list[OmapiLease]:
        if self.broken:
            raise OmapiError("dhcpd at 127.0.0.1:7911 refuses the connection: set omapi-port")
        return [known for known in self.known if known.mac == mac]

    def expire(self, ip: str, mac: str, now: int) -> bool:
        if self.broken:
            raise OmapiError("dhcpd at 127.0.0.1:7911 refuses the connection: set omapi-port")
        self.ended.append(ip)
        return True


def itself(dhcpd: Dhcpd, answers: Answers = lambda *_: None) -> DhcpdItself:
    return DhcpdItself(dhcpd, lambda: NOW, answers)  # type: ignore[arg-type]  # what it asks is what Dhcpd has


HEARD = OmapiLease("10.77.1.9", MAC, "active", NOW + 7200, NOW + 5)


@pytest.mark.parametrize(
    ("known", "believed"),
    [
        (HEARD, True),
        (replace(HEARD, cltt=NOW - 600), False),
        (replace(HEARD, mac=OTHER), False),
        (replace(HEARD, state="free"), False),
        (replace(HEARD, ends=NOW - 1), False),
        (replace(HEARD, ends=None), True),
        (None, False),
    ],
)
def test_dhcpd_is_believed_if_it_has_heard_the_client_since_and_the_lease_is_its(
    known: OmapiLease | None, believed: bool
) -> None:
    dhcpd = Dhcpd([known] if known else [])
    lease = itself(dhcpd).lease(MAC, [OLD], NOW)
    assert (lease is not None) is believed
    if lease:
        assert (lease.ip, lease.evidence) == ("10.77.1.9", "omapi-cltt")


def test_of_several_addresses_that_were_heard_of_the_last_one_counts() -> None:
    """The firmware's lease, of another client identifier, was heard of before that of the system it has loaded."""
    other = replace(OLD, ip="10.77.1.8")
    heard = [HEARD, replace(HEARD, ip="10.77.1.8", cltt=NOW + 9)]
    for known in (heard, heard[::-1]):
        lease = itself(Dhcpd(known)).lease(MAC, [OLD, other], NOW)
        assert lease is not None
        assert lease.ip == "10.77.1.8"


@pytest.mark.parametrize(("answered", "believed"), [(True, True), (False, False), (None, True)])
def test_dhcpd_is_not_believed_where_nobody_answers_though_it_could_be_told(
    answered: bool | None, believed: bool
) -> None:
    """The client was heard with a DISCOVER, and another server has given it another address."""
    witness = itself(Dhcpd([HEARD]), lambda *_: answered)
    assert (witness.lease(MAC, [OLD], NOW) is not None) is believed
    assert ("nobody answers with its MAC at 10.77.1.9" in witness.says()) is not believed


@pytest.mark.parametrize(("answered", "believed"), [(True, True), (False, False), (None, False)])
def test_an_address_is_believed_if_its_mac_answers_there(answered: bool | None, believed: bool) -> None:
    witness = Neighbour(lambda *_: answered)
    lease = witness.lease(MAC, [OLD], NOW)
    assert (lease.evidence if lease else None) == ("neighbour" if believed else None)
    if answered is None:
        assert "no network of this node" in witness.says()


def test_a_guest_is_believed_for_its_own_card_only() -> None:
    assert Guest(lambda: [(OTHER, "10.77.1.8")]).lease(MAC, [], NOW) is None
    lease = Guest(lambda: [(OTHER, "10.77.1.8"), (MAC, "10.77.1.9")]).lease(MAC, [], NOW)
    assert lease is not None
    assert (lease.ip, lease.evidence) == ("10.77.1.9", "vmware-tools")


def test_a_host_that_does_not_answer_for_its_guest_ends_no_wait() -> None:
    def silent() -> Sequence[tuple[str, str]]:
        raise ProvisioningError("host_unavailable", "esx1 does not answer")

    guest = Guest(silent)
    assert guest.lease(MAC, [], NOW) is None
    assert "esx1 does not answer" in guest.says()


# --- the whole way ---------------------------------------------------------------------------------------------------


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[LeaseWatcher]:
    path = tmp_path / "dhcpd.leases"
    path.write_bytes(record("10.77.1.9", MAC, ends=NOW + 6600))
    with LeaseWatcher(LeaseFile(path), tick_s=0.05, clock=lambda: NOW) as made:
        yield made


def leases(watcher: LeaseWatcher, *witnesses: Witness, **options: object) -> FreshLeases:
    makers = [lambda one=one: one for one in witnesses]
    return FreshLeases([watcher], makers, ask_s=0.01, **options)  # type: ignore[arg-type]


def never() -> bool:
    return False


@dataclass
class Says:
    """Whoever tells it at the third question."""

    told: Lease
    asked: int = 0

    def lease(self, mac: str, candidates: Sequence[Lease], since: float) -> Lease | None:
        self.asked += 1
        return self.told if self.asked == 3 else None

    def says(self) -> str:
        return "it was asked in vain"


def test_witnesses_are_asked_until_one_knows(watcher: LeaseWatcher) -> None:
    witness = Says(replace(OLD, evidence="neighbour"))
    source = leases(watcher, witness)
    assert source.wait(MAC, source.arm(MAC), 60, never).evidence == "neighbour"
    assert witness.asked == 3


def test_a_record_in_the_file_needs_no_witness(watcher: LeaseWatcher, tmp_path: Path) -> None:
    witness = Says(OLD)
    source = leases(watcher, witness)
    mark = source.arm(MAC)
    with (tmp_path / "dhcpd.leases").open("ab") as file:
        file.write(record("10.77.1.10", MAC, ends=NOW + 6600))
    assert source.wait(MAC, mark, 60, never).ip == "10.77.1.10"
    assert witness.asked == 0


def test_an_address_that_the_guest_has_declined_is_believed_from_nobody(watcher: LeaseWatcher, tmp_path: Path) -> None:
    source = leases(watcher, Says(OLD))
    mark = source.arm(MAC)
    with (tmp_path / "dhcpd.leases").open("ab") as file:
        file.write(record("10.77.1.9", None, "abandoned"))
    with pytest.raises(ProvisioningError, match="declined it"):
        source.wait(MAC, mark, 0.2, never)


def test_what_was_answered_is_looked_at_again_in_the_file(tmp_path: Path) -> None:
    """Nobody tells the watcher of changes here: it looks."""
    path = tmp_path / "dhcpd.leases"
    path.touch()
    watcher = LeaseWatcher(LeaseFile(path), clock=lambda: NOW)
    source = FreshLeases([watcher])
    armed = source.arm(MAC)

    def write(data: bytes) -> None:
        with path.open("ab") as file:
            file.write(data)

    write(record("10.77.1.10", MAC, ends=NOW + 6600))
    watcher.mark()
    lease = source.wait(MAC, armed, 0, never)
    assert source.look_again(lease, armed) == lease
    write(record("10.77.1.10", None, "abandoned"))
    assert source.look_again(lease, armed) is None
    write(record("10.77.1.11", MAC, ends=NOW + 6600))
    watcher.mark()
    following = source.look_again(lease, armed)
    assert following is not None
    assert following.ip == "10.77.1.11"


@pytest.mark.parametrize("written", [b"", record("10.77.1.9", None, "abandoned")], ids=["stands", "declined"])
def test_what_a_witness_has_told_stands_until_it_is_declined(
    watcher: LeaseWatcher, tmp_path: Path, written: bytes
) -> None:
    source = leases(watcher, Says(OLD))
    armed = source.arm(MAC)
    told = replace(OLD, evidence="neighbour")
    with (tmp_path / "dhcpd.leases").open("ab") as file:
        file.write(written)
    assert source.look_again(told, armed) == (None if written else told)


def test_an_address_that_one_source_has_seen_declined_is_taken_from_no_other(tmp_path: Path) -> None:
    """Failover peers do not learn of it at the same time."""
    files = [tmp_path / "primary.leases", tmp_path / "secondary.leases"]
    for file in files:
        file.touch()
    watchers = [LeaseWatcher(LeaseFile(file), clock=lambda: NOW) for file in files]
    source = FreshLeases(watchers)
    armed = source.arm(MAC)
    for file in files:
        file.write_bytes(record("10.77.1.10", MAC, ends=NOW + 6600))
    for watcher in watchers:
        watcher.mark()
    lease = source.wait(MAC, armed, 0, never)
    with files[1].open("ab") as secondary:
        secondary.write(record("10.77.1.10", None, "abandoned"))
    assert source.look_again(lease, armed) is None


def test_the_error_says_what_was_seen_and_what_was_tried(watcher: LeaseWatcher) -> None:
    source = leases(watcher, itself(Dhcpd(broken=True)), Neighbour(lambda *_: False), guests=True)
    with pytest.raises(ProvisioningError) as caught:
        source.wait(MAC, source.arm(MAC), 0.1, never, lambda: [])
    for said in (
        "an active lease 10.77.1.9 from before power-on exists",
        "dhcp-cache-threshold 0;",
        "OMAPI: dhcpd at 127.0.0.1:7911 refuses the connection",
        "nobody answers with its MAC at its old address",
        "VMware Tools report no address",
    ):
        assert said in caught.value.message


def test_guests_are_asked_only_if_they_are_a_source(watcher: LeaseWatcher) -> None:
    def asked() -> Sequence[tuple[str, str]]:
        raise AssertionError("nobody wanted that")

    source = leases(watcher)
    with pytest.raises(ProvisioningError, match="waited 0 s"):
        source.wait(MAC, source.arm(MAC), 0.1, never, asked)


@pytest.mark.parametrize("stop", [True, False], ids=["stopped", "cancelled"])
def test_a_wait_with_witnesses_ends_when_the_service_does(watcher: LeaseWatcher, stop: bool) -> None:
    def ending() -> bool:
        if stop:
            watcher.stop()
        return not stop

    source = leases(watcher, Says(OLD))
    with pytest.raises(ProvisioningError):
        source.wait(MAC, source.arm(MAC), 60, ending)


def test_what_a_mac_has_is_ended_before_its_vm_is_switched_on(watcher: LeaseWatcher) -> None:
    dhcpd = Dhcpd()
    leases(watcher, omapi=dhcpd).end_old(MAC)
    assert dhcpd.ended == ["10.77.1.9"]
    leases(watcher, omapi=dhcpd).end_old(OTHER)
    assert dhcpd.ended == ["10.77.1.9"]


def test_an_old_lease_that_cannot_be_ended_holds_nobody_up(watcher: LeaseWatcher) -> None:
    leases(watcher, omapi=Dhcpd(broken=True)).end_old(MAC)
    leases(watcher).end_old(MAC)


def test_what_went_wrong_in_one_wait_is_not_told_of_the_next(watcher: LeaseWatcher) -> None:
    dhcpd = Dhcpd(broken=True)
    source = FreshLeases([watcher], [lambda: itself(dhcpd)], ask_s=0.01)
    with pytest.raises(ProvisioningError, match="refuses the connection"):
        source.wait(MAC, source.arm(MAC), 0.05, never)
    dhcpd.broken = False
    with pytest.raises(ProvisioningError, match="dhcpd has not heard the VM since"):
        source.wait(MAC, source.arm(MAC), 0.05, never)
