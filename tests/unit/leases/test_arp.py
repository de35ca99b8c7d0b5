"""What machines say of themselves by ARP, and what is no such thing."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.leases.arp import mac_of, request

IP, MAC, OURS = "10.77.1.1", "00:50:56:00:01:01", "10.77.0.1"
REQUEST, REPLY = 1, 2


def packet(operation: int, sender_ip: str, mac: str = MAC, kinds: bytes = bytes.fromhex("0001080006 04")) -> bytes:
    own = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(sender_ip)
    return kinds + struct.pack("!H6s4s6s4s", operation, *own, b"\x02" * 6, socket.inet_aton(OURS))


@pytest.mark.parametrize("operation", [REQUEST, REPLY], ids=["asks", "answers"])
def test_whoever_speaks_from_an_address_has_it(operation: int) -> None:
    assert mac_of(packet(operation, IP), IP) == MAC
    assert mac_of(packet(operation, "10.77.1.2"), IP) is None


def test_who_only_asks_whether_an_address_is_free_does_not_have_it() -> None:
    assert mac_of(packet(REQUEST, "0.0.0.0"), IP) is None


def test_our_own_question_is_a_request_in_our_name() -> None:
    asked = request(IP, bytes.fromhex(MAC.replace(":", "")), OURS)
    assert mac_of(asked, OURS) == MAC
    assert (asked[6:8], asked[18:]) == (b"\0\1", bytes(6) + socket.inet_aton(IP))


@given(st.binary(max_size=64), st.integers(0, 28))
def test_anything_may_follow_a_packet_and_what_is_cut_off_is_none(junk: bytes, cut: int) -> None:
    whole = packet(REPLY, IP)
    assert mac_of(whole + junk, IP) == MAC
    assert mac_of(whole[:cut], IP) == (MAC if cut == len(whole) else None)
    mac_of(junk, IP)


def test_hardware_that_is_no_ethernet_has_no_mac() -> None:
    assert mac_of(packet(REPLY, IP, kinds=bytes.fromhex("0020080006 04")), IP) is None
