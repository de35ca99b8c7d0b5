"""What the kernel says in netlink messages, and what is no such thing."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from esxprov.leases.neighbours import Neighbour, direct_interface, neighbours

IP, MAC = "10.77.1.1", "00:50:56:00:01:01"
NEW_ROUTE, NEW_NEIGHBOUR = 24, 28
UNICAST, LOCAL = 1, 2


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def neighbour(ip: str = IP, mac: str = MAC, ticks: int = 250, family: int = socket.AF_INET) -> bytes:
    said = attribute(1, socket.inet_aton(ip))
    if mac:
        said += attribute(2, bytes.fromhex(mac.replace(":", "")))
    said += attribute(3, struct.pack("=4I", ticks, 1, 2, 3))
    return message(NEW_NEIGHBOUR, struct.pack("=BxxxiHBB", family, 7, 2, 0, 1) + said)


def route(kind: int, *said: bytes) -> bytes:
    return message(NEW_ROUTE, struct.pack("=8BI", socket.AF_INET, 32, 0, 0, 254, 0, 0, kind, 0) + b"".join(said))


def test_a_neighbour_is_read() -> None:
    assert list(neighbours(neighbour())) == [Neighbour(IP, 7, MAC, 2.5)]


def test_a_neighbour_that_is_sought_has_no_mac() -> None:
    assert list(neighbours(neighbour(mac=""))) == [Neighbour(IP, 7, None, 2.5)]


def test_an_address_that_is_no_mac_is_none() -> None:
    assert list(neighbours(neighbour(mac="00:01"))) == [Neighbour(IP, 7, None, 2.5)]


def test_all_neighbours_of_an_answer_are_read_and_other_messages_passed_over() -> None:
    data = neighbour() + route(UNICAST) + neighbour(family=socket.AF_INET6) + neighbour(ip="10.77.1.2")
    assert [found.ip for found in neighbours(data)] == [IP, "10.77.1.2"]


def test_a_route_to_a_network_of_ours_names_its_interface() -> None:
    assert direct_interface(route(UNICAST, attribute(4, struct.pack("=I", 7)))) == 7


def test_a_route_by_a_router_or_to_ourselves_names_none() -> None:
    interface = attribute(4, struct.pack("=I", 7))
    assert direct_interface(route(UNICAST, interface, attribute(5, bytes(4)))) is None
    assert direct_interface(route(UNICAST, interface, attribute(18, bytes(18)))) is None
    assert direct_interface(route(LOCAL, interface)) is None


def test_an_error_is_no_route() -> None:
    assert direct_interface(message(2, struct.pack("=i", -101))) is None


@given(st.binary(max_size=200), st.integers(0, 80))
def test_anything_may_follow_a_message_or_cut_it_off(junk: bytes, cut: int) -> None:
    assert next(neighbours(neighbour() + junk)) == Neighbour(IP, 7, MAC, 2.5)
    for data in (junk, neighbour()[:cut] + junk, route(UNICAST)[:cut] + junk):
        assert all(found.interface for found in neighbours(data) if found.ip == IP)
        direct_interface(data)
