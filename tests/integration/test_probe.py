"""Whether an address is answered by a MAC, asked of real kernels by a process without privileges."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

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
import json, sys
from esxprov.leases.probe import answers
print(json.dumps(answers(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
"""
WITHOUT_PRIVILEGES = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--")


class Wire(TwoMachines):
    def answers(self, ip: str, mac: str, timeout_s: float = AT_LAST_S) -> bool | None:
        output = self.here(*WITHOUT_PRIVILEGES, sys.executable, "-c", PROBE, ip, mac, str(timeout_s))
        answer: bool | None = json.loads(output)
        return answer

    def known(self) -> str:
        """What our kernel has in its table for the guest's address."""
        return self.here("ip", "-json", "neighbour", "show", GUEST)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
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
    assert wire.answers(GUEST, MAC) is True
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
