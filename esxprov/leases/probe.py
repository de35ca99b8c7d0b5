"""Does the machine with an address answer with a MAC?

It is asked by ARP, which a guest's firewall lets through. Where we may not send that ourselves (CAP_NET_RAW), the
kernel asks: we make it and look.
"""

from __future__ import annotations

import socket
import struct
import time

from esxprov.leases import arp
from esxprov.leases.neighbours import Kernel

_DISCARD_PORT = 9
_FIRST_WAIT_S = 0.005
_LAST_WAIT_S = 0.1
_IP_RECVERR = 11
_EXTENDED_ERROR = struct.Struct("=IBBBxIIHxx4s")  # errno, origin, type, code, info, data, family, who sent it
_BY_ICMP = 2


def answers(ip: str, mac: str, timeout_s: float, since: float) -> bool | None:
    """True: it does. False: another one does, or none within `timeout_s`. None: it is not on a network of ours, or
    the kernel does not tell.

    Only what was answered after `since` (by time.monotonic()) counts, be it to an earlier question. With CAP_NET_RAW
    that takes a millisecond. Without, of a machine that was heard shortly before `since` the kernel believes for 15 to
    45 s that it is still there, and then for 5 more before it asks: until then False means no answer *yet*, unless the
    machine rejects the datagram, which is an answer.
    """
    try:
        with Kernel() as kernel, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            interface = kernel.interface_to(ip)
            if interface is None:
                return None
            asking.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            asking.connect((ip, _DISCARD_PORT))
            try:
                return arp.who_has(ip, socket.if_indextoname(interface), asking.getsockname()[0], timeout_s) == mac
            except PermissionError:
                return _answers_the_kernel(kernel, asking, interface, ip, mac, timeout_s, since)
    except OSError:
        return None


def _answers_the_kernel(
    kernel: Kernel, asking: socket.socket, interface: int, ip: str, mac: str, timeout_s: float, since: float
) -> bool:
    """The same without privileges."""
    deadline = time.monotonic() + timeout_s
    wait_s = _FIRST_WAIT_S
    while True:
        has_answered = _ask(asking, ip, min(wait_s, timeout_s))
        found = kernel.neighbour(ip, interface)
        now = time.monotonic()
        if found is not None and found.mac is not None and (has_answered or found.confirmed_ago_s < now - since):
            return found.mac == mac
        if now >= deadline:
            return False
        wait_s = min(2 * wait_s, _LAST_WAIT_S)


def _ask(asking: socket.socket, ip: str, wait_s: float) -> bool:
    """Send a datagram and wait; whether the machine itself has answered."""
    asking.settimeout(wait_s)
    try:
        asking.send(b"")
        asking.recv(1)
    except OSError:  # silence; or a rejection, by the machine or by our own kernel or firewall
        return _was_rejected_by(ip, asking)
    return True


def _was_rejected_by(ip: str, asking: socket.socket) -> bool:
    asking.settimeout(0)
    offenders = set()
    while True:
        try:
            _, said, _, _ = asking.recvmsg(0, 512, socket.MSG_ERRQUEUE)
        except BlockingIOError:
            return ip in offenders
        for level, kind, data in said:
            if (level, kind) == (socket.IPPROTO_IP, _IP_RECVERR) and len(data) >= _EXTENDED_ERROR.size:
                _, origin, *_, offender = _EXTENDED_ERROR.unpack_from(data)
                if origin == _BY_ICMP:
                    offenders.add(socket.inet_ntoa(offender))
