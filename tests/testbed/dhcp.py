"""DHCP messages of a client, in Ethernet frames (RFC 2131, 2132)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = range(1, 8)
_KIND, _REQUESTED_IP, _SERVER, _PARAMETERS, _CLIENT_ID = 53, 50, 54, 55, 61
_MASK_ROUTER_DNS = b"\x01\x03\x06"
_COOKIE = b"\x63\x82\x53\x63"
_BROADCAST = b"\xff" * 6
_FIXED = 236
"""Octets of a BOOTP message before the cookie."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. `server` identifies it in the requests that follow."""

    mac: bytes
    xid: int
    kind: int
    ip: str
    server: bytes


def message(
    kind: int, mac: bytes, xid: int, *, requested_ip: str = "", server: bytes = b"", own_ip: str = "0.0.0.0"
) -> bytes:
    """A broadcast frame from `mac`. `own_ip` is an address the client has, `requested_ip` one it wants."""
    options = _option(_KIND, bytes([kind])) + _option(_CLIENT_ID, b"\x01" + mac)
    if requested_ip:
        options += _option(_REQUESTED_IP, socket.inet_aton(requested_ip))
    if server:
        options += _option(_SERVER, server)
    options += _option(_PARAMETERS, _MASK_ROUTER_DNS) + b"\xff"
    answer_by_broadcast = 0x8000  # nobody here could answer ARP
    header = struct.pack("!BBBBIHH4s12x16s192x", 1, 1, 6, 0, xid, 0, answer_by_broadcast, socket.inet_aton(own_ip), mac)
    bootp = (header + _COOKIE + options).ljust(300, b"\0")
    udp = struct.pack("!HHHH", 68, 67, 8 + len(bootp), 0) + bootp
    source, target = socket.inet_aton(own_ip), b"\xff" * 4
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0x10, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0, source, target)
    ip = ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:]
    return _BROADCAST + mac + b"\x08\x00" + ip + udp


def read(frame: bytes) -> Answer | None:
    """The server's answer in a frame; None if it holds something else."""
    if len(frame) < 34 or frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_UDP:
        return None
    udp = 14 + (frame[14] & 15) * 4
    bootp = frame[udp + 8 :]
    if len(bootp) < _FIXED + 4 or bootp[0] != 2 or bootp[_FIXED : _FIXED + 4] != _COOKIE:
        return None
    options = _options(bootp[_FIXED + 4 :])
    xid = int.from_bytes(bootp[4:8], "big")
    kind = options.get(_KIND, b"\0")[0]
    return Answer(bootp[28:34], xid, kind, socket.inet_ntoa(bootp[16:20]), options.get(_SERVER, b""))


def _option(code: int, value: bytes) -> bytes:
    return bytes([code, len(value)]) + value


def _options(field: bytes) -> dict[int, bytes]:
    found, position = {}, 0
    while position + 1 < len(field) and field[position] != 0xFF:
        if field[position] == 0:  # padding
            position += 1
            continue
        end = position + 2 + field[position + 1]
        found[field[position]] = field[position + 2 : end]
        position = end
    return found


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
