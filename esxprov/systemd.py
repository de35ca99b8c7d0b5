"""What systemd wants to be told of a service of Type=notify."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """sd_notify(3) in four lines: a datagram to the socket systemd names."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
            notifier.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
