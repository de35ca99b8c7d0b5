"""Free TCP ports on loopback."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_FIRST = 15000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """`count` different ports that nothing listens on.

    They are below the range from which the kernel serves outgoing connections and `bind(0)`; so, between here and the
    server's own bind, only another test bed could take one, and they are drawn at random.
    """
    last = int(_EPHEMERAL.read_text().split()[0])
    found: list[int] = []
    for port in random.sample(range(_FIRST, last), last - _FIRST):
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
