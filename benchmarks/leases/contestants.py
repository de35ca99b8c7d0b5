"""`python -m benchmarks.leases.contestants NAME FILE NOW`: one reader of lease files reads the file once.

Prints its CPU seconds (user and system, without the start of the interpreter), the most memory the process had in MB,
and the leases it found: how many, and a digest of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from esxprov.leases.follower import LeaseFile

PACKAGE = "isc_dhcp_leases"
_TOOL = "dhcpd-pools"


def main() -> None:
    """The command."""
    name, path, now = sys.argv[1:]
    read = {"ours": _ours, PACKAGE: _isc_dhcp_leases}[name]
    cpu_s, leases = read(Path(path), int(now))
    found = {"cpu_s": cpu_s, "peak_mb": _peak_mb(), "leases": len(leases), "digest": digest(leases)}
    print(json.dumps(found))


def digest(leases: Mapping[str, str]) -> str:
    """The same for the same leases, ip -> mac."""
    return hashlib.sha256(json.dumps(sorted(leases.items())).encode()).hexdigest()


def dhcpd_pools(conf: Path, path: Path) -> float:
    """The CPU seconds of Debian's dhcpd-pools, start included. FileNotFoundError if it is not installed."""
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    command = [_TOOL, "--config", str(conf), "--leases", str(path)]
    _, status, used = os.wait4(os.posix_spawnp(_TOOL, command, os.environ, file_actions=silent), 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed")
    return used.ru_utime + used.ru_stime


def _timed(read: Callable[[], object]) -> float:
    before = time.process_time()
    read()
    return time.process_time() - before


def _ours(path: Path, now: int) -> tuple[float, Mapping[str, str]]:
    file = LeaseFile(path)
    cpu_s = _timed(file.poll)
    return cpu_s, {lease.ip: lease.mac for lease in file.index.leases(now)}


def _isc_dhcp_leases(path: Path, now: int) -> tuple[float, Mapping[str, str]]:
    from isc_dhcp_leases import IscDhcpLeases

    found = {}

    def read() -> None:
        found.update(IscDhcpLeases(str(path)).get_current())

    return _timed(read), {lease.ip: mac for mac, lease in found.items()}


def _peak_mb() -> float:
    """Of this program: what getrusage tells is at least what the process had that started us."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
