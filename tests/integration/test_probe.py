"""Whether an address is answered by a MAC, asked of real kernels: with CAP_NET_RAW, and without any privilege."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import pytest

from esxprov.leases.wait import ASK_S
from tests.integration.two_machines import TwoMachines

OURS, GUEST, NOBODYS = "10.77.0.1", "10.77.1.1", "10.77.1.2"
MAC, OTHER_MAC = "00:50:56:00:01:01", "00:50:56:00:01:02"
AT_LAST_S = 20.0
NOT_FOR_LONG_S = 0.3
PATIENCE = ("base_reachable", "3600000", "delay_probe", "10", "retrans", "20", "ucast_probes", "1")
"""Milliseconds: our kernel believes for an hour in a guest that it has heard; a guest that it does not believe in any
more it asks soon.
"""
PROBE = """\
import json, sys, time
from esxprov.leases.probe import answers
print(json.dumps(answers(sys.argv[1], sys.argv[2], float(sys.argv[3]), time.monotonic())))
"""
WITNESS = """\
import sys, time
from esxprov.leases.probe import answers
from esxprov.leases.wait import ASK_S
from esxprov.leases.witnesses import Neighbour
from esxprov.model import Lease
began = time.monotonic()
ip, mac, patience_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
witness = Neighbour(answers)
old = Lease(ip, mac, "active", 0, None)
while not witness.lease(mac, [old], 0) and time.monotonic() - began < patience_s:
    time.sleep(ASK_S)
print(time.monotonic())
"""
WITHOUT_PRIVILEGES = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--")


class Wire(TwoMachines):
    rights: tuple[str, ...] = ()

    def answers(self, ip: str, mac: str, timeout_s: float = AT_LAST_S) -> bool | None:
        output = self.here(*self.rights, sys.executable, "-c", PROBE, ip, mac, str(timeout_s))
        answer: bool | None = json.loads(output)
        return answer

    def is_heard_by_the_kernel(self) -> bool | None:
        """The kernel is made to ask, and then knows."""
        told: bool | None = json.loads(
            self.here(*WITHOUT_PRIVILEGES, sys.executable, "-c", PROBE, GUEST, MAC, str(AT_LAST_S))
        )
        return told

    def found_at(self, patience_s: float) -> float:
        """When (time.monotonic()) the witness of a wait for an address finds it, asked as that asks it."""
        return float(self.here(*self.rights, sys.executable, "-c", WITNESS, GUEST, MAC, str(patience_s)))

    def known(self) -> str:
        """What our kernel has in its table for the guest's address."""
        return self.here("ip", "-json", "neighbour", "show", GUEST)


@pytest.fixture(params=[(), WITHOUT_PRIVILEGES], ids=["raw", "unprivileged"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    with Wire() as wire:
        wire.rights = request.param
        wire.there("ip", "link", "set", "eth1", "address", MAC, "up")
        wire.there("ip", "address", "add", f"{GUEST}/16", "dev", "eth1")
        wire.here("ip", "link", "set", "eth0", "up")
        wire.here("ip", "address", "add", f"{OURS}/16", "dev", "eth0")
        wire.here("ip", "ntable", "change", "name", "arp_cache", "dev", "eth0", *PATIENCE)
        yield wire


def test_a_guest_that_rejects_what_it_is_sent_answers(wire: Wire) -> None:
    assert wire.answers(GUEST, MAC) is True


def test_a_guest_that_swallows_what_it_is_sent_answers(wire: Wire) -> None:
    wire.swallow()
    assert wire.answers(GUEST, MAC) is True


def test_a_guest_that_was_heard_before_answers_again(wire: Wire) -> None:
    assert wire.answers(GUEST, MAC) is True
    assert wire.answers(GUEST, MAC) is True


def test_an_address_that_another_machine_has_is_not_the_macs(wire: Wire) -> None:
    assert wire.answers(GUEST, OTHER_MAC) is False


def test_an_address_that_nobody_has_is_not_answered(wire: Wire) -> None:
    assert wire.answers(NOBODYS, MAC, NOT_FOR_LONG_S) is False


def test_a_guest_that_has_gone_does_not_answer_though_the_kernel_still_believes_in_it(wire: Wire) -> None:
    assert wire.is_heard_by_the_kernel()
    wire.there("ip", "address", "flush", "dev", "eth1")
    assert MAC in wire.known()
    assert wire.answers(GUEST, MAC, NOT_FOR_LONG_S) is False


def test_an_address_that_has_moved_to_another_machine_is_that_ones(wire: Wire) -> None:
    assert wire.answers(GUEST, MAC) is True
    wire.there("ip", "link", "set", "eth1", "address", OTHER_MAC)
    wire.here("ip", "neighbour", "replace", GUEST, "lladdr", MAC, "nud", "stale", "dev", "eth0")
    assert wire.answers(GUEST, OTHER_MAC) is True
    assert wire.answers(GUEST, MAC) is False


def test_an_address_of_another_network_cannot_be_told(wire: Wire) -> None:
    assert wire.answers("192.0.2.1", MAC) is None
    wire.here("ip", "route", "add", "default", "via", GUEST)
    assert wire.answers("192.0.2.1", MAC) is None


def test_our_own_address_cannot_be_told(wire: Wire) -> None:
    wire.here("ip", "link", "set", "lo", "up")
    assert wire.answers(OURS, MAC) is None


# --- guests that drop all IP -----------------------------------------------------------------------------------------

BOOT_AFTER_S = 2.5
"""While the witness pauses after its first question, which takes a second."""

SECONDS = ASK_S + 1
"""A guest that comes up just after a question is heard by the next one; one more second is for a slow machine."""


def test_a_guest_that_drops_all_ip_is_found_within_seconds_of_its_boot(wire: Wire) -> None:
    """It comes up while nobody asks but the kernel, which was made to and goes on for a while: that answer counts."""
    wire.here("ip", "ntable", "change", "name", "arp_cache", "dev", "eth0", "retrans", "1000", "mcast_probes", "9")
    up_at = time.monotonic() + BOOT_AFTER_S
    wire.boot_firewalled(GUEST, up_at)
    assert up_at < wire.found_at(AT_LAST_S) < up_at + SECONDS


@pytest.mark.parametrize("wire", [()], ids=["raw"], indirect=True)
def test_a_guest_that_drops_all_ip_is_found_after_its_reboot_and_not_before(wire: Wire) -> None:
    """Our kernel believes in its earlier life for an hour, and asks nothing."""
    wire.boot_firewalled(GUEST, time.monotonic())
    assert wire.is_heard_by_the_kernel()
    up_at = time.monotonic() + BOOT_AFTER_S
    wire.boot_firewalled(GUEST, up_at)
    assert up_at < wire.found_at(AT_LAST_S) < up_at + SECONDS
    assert '"REACHABLE"' in wire.known()


@pytest.mark.parametrize("wire", [WITHOUT_PRIVILEGES], ids=["unprivileged"], indirect=True)
def test_without_privileges_what_a_guest_answered_before_its_reboot_is_not_believed(wire: Wire) -> None:
    wire.boot_firewalled(GUEST, time.monotonic())
    assert wire.is_heard_by_the_kernel()
    assert '"REACHABLE"' in wire.known()
    assert wire.answers(GUEST, MAC, NOT_FOR_LONG_S) is False
