"""Who owns an event: one run of the service, named so that its successor on the same machine can tell that it is dead.

After `kill -9` and a restart by systemd nobody should wait until the dead service's ownership runs out. A name from
another machine, another boot or another pid namespace tells nothing: then the time decides.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

_PROC = Path("/proc")


def myself() -> str:
    """The name of this process, at most 64 characters: host, where its process ids count, pid, start time."""
    pid = os.getpid()
    return f"{socket.gethostname().split('.', 1)[0][:16]}/{_pid_space()}/{pid}/{_started(pid)}"


def is_known_dead(owner: str) -> bool:
    """True only if that process was on this machine, since its last boot, and is not there any more."""
    _, _, place = owner.partition("/")
    space, _, process = place.partition("/")
    pid, _, started = process.partition("/")
    if space != _pid_space() or not pid.isdecimal():
        return False
    return _started(int(pid)) != started


def _pid_space() -> str:
    """Two services in two containers may have the same pid."""
    boot = (_PROC / "sys/kernel/random/boot_id").read_text()[:8]
    return f"{boot}-{os.stat(_PROC / 'self/ns/pid').st_ino}"


def _started(pid: int) -> str:
    """Clock ticks from boot to the start of a process, so that a reused pid is not mistaken; empty if it is gone."""
    try:
        # The command's name is in parentheses and may hold anything.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
