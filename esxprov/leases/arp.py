"""Ask the machines of an Ethernet by ARP who has an address (RFC 826). Needs CAP_NET_RAW, as a service of root has it.

The kernel's own ARP would not do: of a machine that it has heard lately it asks nothing for up to 50 s.
"""

from __future__ import annotations

import socket
import struct
import time

_ARP = 0x0806
_PACKET = struct.Struct("!HHBBH6s4s6s4s")  # kinds and lengths of addresses, operation; sender, target
_ETHERNET, _IPV4 = 1, 0x0800
_REQUEST = 1
_BROADCAST = b"\xff" * 6
_RETRY_S = 0.25


def who_has(ip: str, interface: str, own_ip: str, timeout_s: float) -> str | None:
    """The MAC of the machine that says it has the address, None if nobody does within `timeout_s`.

    What anybody says of the address from now on counts, a guest's own announcement, too. PermissionError without
    CAP_NET_RAW.
    """
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ARP)) as wire:
        wire.bind((interface, _ARP))
        question = request(ip, wire.getsockname()[4], own_ip)
        ask_at = time.monotonic()
        while (now := time.monotonic()) < deadline:
            if now >= ask_at:
                wire.sendto(question, (interface, _ARP, 0, 0, _BROADCAST))
                ask_at = now + _RETRY_S
            wire.settimeout(max(min(ask_at, deadline) - now, 0.001))
            try:
                packet, sender = wire.recvfrom(512)
            except TimeoutError:
                continue
            if sender[2] != socket.PACKET_OUTGOING and (mac := mac_of(packet, ip)):
                return mac
    return None


def request(ip: str, own_mac: bytes, own_ip: str) -> bytes:
    """The question who has `ip`."""
    own = own_mac, socket.inet_aton(own_ip)
    return _PACKET.pack(_ETHERNET, _IPV4, 6, 4, _REQUEST, *own, bytes(6), socket.inet_aton(ip))


def mac_of(packet: bytes, ip: str) -> str | None:
    """The MAC of a packet's sender, if that says it has the address. A probe for a conflict (RFC 5227) names none."""
    if len(packet) < _PACKET.size:
        return None
    *kinds, _, mac, sender_ip, _, _ = _PACKET.unpack_from(packet)
    if kinds != [_ETHERNET, _IPV4, 6, 4] or sender_ip != socket.inet_aton(ip):
        return None
    return str(mac.hex(":"))
