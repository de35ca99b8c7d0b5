"""A guest behind a firewall that drops all IP: it answers ARP for its address, and nothing else."""

from __future__ import annotations

import socket
import struct
import threading
import time

_ARP = 0x0806
_PACKET = struct.Struct("!6sH6s4s6s4s")  # kinds and lengths, operation; sender's MAC and address, target's
_KINDS = bytes.fromhex("000108000604")
_REQUEST, _REPLY = 1, 2


class ArpGuest:
    """Plugged into `interface`, whose MAC is its own, for as long as this process lives. It is up from `up_at`
    (time.monotonic()) on.
    """

    def __init__(self, interface: str, ip: str, up_at: float) -> None:
        self.up_at = up_at
        self._interface = interface
        self._address = socket.inet_aton(ip)
        self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ARP))
        self._wire.bind((interface, _ARP))
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        mac = self._wire.getsockname()[4]
        while True:
            packet = self._wire.recv(512)
            if len(packet) < _PACKET.size or time.monotonic() < self.up_at:
                continue
            kinds, operation, asker, asker_ip, _, asked = _PACKET.unpack_from(packet)
            if (kinds, operation, asked) == (_KINDS, _REQUEST, self._address):
                answer = _PACKET.pack(_KINDS, _REPLY, mac, asked, asker, asker_ip)
                self._wire.sendto(answer, (self._interface, _ARP, 0, 0, asker))
