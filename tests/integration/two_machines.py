"""Two machines on one wire, each a network namespace: `here` is ours, with eth0; `there` is a guest, with eth1.

Nothing of them is seen outside, and they are gone with the process that made them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.testbed.arp_guest import ArpGuest
from tests.testbed.lan import namespaces
from tests.testbed.processes import run

_REPOSITORY = Path(__file__).resolve().parents[2]
_MODULE = "tests.integration.two_machines"


class TwoMachines:
    """A context manager."""

    def __init__(self) -> None:
        command = [*namespaces(), sys.executable, "-m", _MODULE, "here"]
        self._process = _start(command)

    def here(self, *command: str) -> str:
        """The output of a command."""
        return self._order("here", {"run": command})

    def there(self, *command: str) -> str:
        """The output of a command on the guest."""
        return self._order("there", {"run": command})

    def swallow(self) -> None:
        """The guest does not reject datagrams any more, it takes them and is silent."""
        self._order("there", {"swallow": 9})

    def boot_firewalled(self, ip: str, up_at: float) -> None:
        """The guest has a firewall that drops all it is sent; it answers ARP for `ip` from `up_at` (time.monotonic())
        on, and until then is off.
        """
        self.there("ip", "address", "flush", "dev", "eth1")
        self._order("there", {"firewalled": ip, "up_at": up_at})

    def _order(self, machine: str, order: dict[str, Any]) -> str:
        said = _ask(self._process, {"machine": machine, **order})
        assert "failed" not in said, said
        return str(said["output"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()


def _start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _ask(process: subprocess.Popen[str], order: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order) + "\n")
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


# --- inside ----------------------------------------------------------------------------------------------------------


def main() -> None:
    """One of the two: does what it reads, line by line, and passes on what the other one is to do."""
    sockets: list[socket.socket] = []
    firewalled: ArpGuest | None = None
    other: subprocess.Popen[str] | None = None
    if sys.argv[1] == "here":
        other = _start(["unshare", "--net", "--", sys.executable, "-m", _MODULE, "there"])
        run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1", "netns", str(other.pid)])
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if other is not None and order["machine"] == "there":
            answer = _ask(other, order)
        elif "run" in order:
            done = subprocess.run(order["run"], capture_output=True, text=True, check=False)
            answer = {"failed": done.stderr} if done.returncode else {"output": done.stdout}
        elif "firewalled" in order:
            if firewalled is None:
                firewalled = ArpGuest("eth1", order["firewalled"], order["up_at"])
            firewalled.up_at = order["up_at"]
            answer = {"output": ""}
        else:
            sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sockets[-1].bind(("", order["swallow"]))
            answer = {"output": ""}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
