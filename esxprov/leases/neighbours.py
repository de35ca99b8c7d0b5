"""The kernel's own knowledge of the networks it is plugged into, by netlink (rtnetlink(7)); needs no privilege.

/proc/net/arp would not do: it shows the MAC of a machine that has been silent for minutes like that of one that
answered just now.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

_HEADER = struct.Struct("=IHHII")  # length, kind, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, kind
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, lengths of target and source, tos, table, protocol, scope, kind, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, interface, state, flags, kind
_NUMBER = struct.Struct("=I")

_ERROR, _DONE, _NEW_ROUTE, _GET_ROUTE, _NEW_NEIGHBOUR, _GET_NEIGHBOURS = 2, 3, 24, 26, 28, 30
_REQUEST, _WHOLE_TABLE = 0x001, 0x300
_ROUTE_TARGET, _ROUTE_INTERFACE, _ROUTE_GATEWAY, _ROUTE_VIA = 1, 4, 5, 18
_UNICAST = 1
_NEIGHBOUR_IP, _NEIGHBOUR_MAC, _NEIGHBOUR_TIMES = 1, 2, 3
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LARGEST_READ = 1 << 20
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A machine on a network of ours. `mac` is None while it is sought; `confirmed_ago_s` is how long ago it answered,
    in steps of a hundredth.
    """

    ip: str
    interface: int
    mac: str | None
    confirmed_ago_s: float


class Kernel:
    """Questions to the kernel. A context manager. OSError if it does not answer."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(_PATIENCE_S)
        self._sequence = 0

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def interface_to(self, ip: str) -> int | None:
        """The interface whose network the address is on; None if a router is on the way, or if it is our own."""
        target = IPv4Address(ip).packed
        question = _ROUTE.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
        question += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(target), _ROUTE_TARGET) + target
        self._ask(_GET_ROUTE, _REQUEST, question)
        return direct_interface(self._socket.recv(_LARGEST_READ))

    def neighbour(self, ip: str, interface: int) -> Neighbour | None:
        """What is known of an address on an interface's network."""
        self._ask(_GET_NEIGHBOURS, _REQUEST | _WHOLE_TABLE, _NEIGHBOUR.pack(socket.AF_INET, 0, 0, 0, 0))
        found = None
        is_done = False
        while not is_done:
            data = self._socket.recv(_LARGEST_READ)
            for neighbour in neighbours(data):
                if (neighbour.ip, neighbour.interface) == (ip, interface):
                    found = neighbour
            is_done = any(kind in (_DONE, _ERROR) for kind, _ in _messages(data))
        return found

    def _ask(self, kind: int, flags: int, question: bytes) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(question), kind, flags, self._sequence, 0) + question)


def direct_interface(data: bytes) -> int | None:
    """The interface of the first route in netlink messages, if no router is on that way."""
    for kind, body in _messages(data):
        if kind == _NEW_ROUTE and len(body) >= _ROUTE.size:
            route_kind = _ROUTE.unpack_from(body)[7]
            said = _attributes(body[_ROUTE.size :])
            is_direct = route_kind == _UNICAST and _ROUTE_GATEWAY not in said and _ROUTE_VIA not in said
            interface = said.get(_ROUTE_INTERFACE, b"")
            return _NUMBER.unpack(interface)[0] if is_direct and len(interface) == _NUMBER.size else None
    return None


def neighbours(data: bytes) -> Iterator[Neighbour]:
    """Those in netlink messages that have an IPv4 address."""
    for kind, body in _messages(data):
        if kind != _NEW_NEIGHBOUR or len(body) < _NEIGHBOUR.size:
            continue
        family, interface, *_ = _NEIGHBOUR.unpack_from(body)
        said = _attributes(body[_NEIGHBOUR.size :])
        ip, mac, times = (said.get(name, b"") for name in (_NEIGHBOUR_IP, _NEIGHBOUR_MAC, _NEIGHBOUR_TIMES))
        if family == socket.AF_INET and len(ip) == 4 and len(times) >= _NUMBER.size:
            ago_s = _NUMBER.unpack_from(times)[0] / _TICKS_PER_S
            yield Neighbour(str(IPv4Address(ip)), interface, mac.hex(":") if len(mac) == 6 else None, ago_s)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each whole message."""
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            return
        yield kind, data[_HEADER.size : length]
        data = data[_aligned(length) :]


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
