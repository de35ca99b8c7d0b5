"""The private network of the test bed: a real DHCP server and its guests, in namespaces that nobody else sees.

`LAN` runs this module in a network, mount and pid namespace (and, if we are not root, in a user namespace): dhcpd, Kea
or dnsmasq on one end of a veth pair, the guests on the other end. Its files are seen from outside. The pid namespace
makes sure that nothing in there outlives its first process.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.testbed.dhcp_servers import INTERFACE, SERVERS, DhcpServer, Secondary
from tests.testbed.guests import Guests, Habits, Journal, Population, ReplayedGuests
from tests.testbed.processes import Child, run
from tests.testbed.server import Server
from tests.testbed.vsphere import TestbedError

_REPOSITORY = Path(__file__).resolve().parents[2]
_START_TIMEOUT_S = 30.0
_ORDER_TIMEOUT_S = 20.0
_GATEWAY = "10.77.0.1"


class LAN(Server):
    """`leases` and `conf` are the server's files. Power changes are told to `power_socket`, a Unix datagram socket:
    `{"event": "on" | "off", "vm": name, "macs": [...], "networks": [...]}`. What guests did is in `guests_log`.

    `mode` is the name of the server, "dhcpd", "kea" or "dnsmasq"; "failover" for two dhcpds, the primary being the
    server and the other one its `partner`; or "replay" where no namespaces can be made (`reason`
    says why): then the guests write the records of dhcpd themselves.
    """

    name = "lan"

    def __init__(
        self,
        directory: Path,
        *,
        server: str = "dhcpd",
        extra: str = "",
        disk_kb: int = 0,
        boot_ms: int = 0,
        release: bool = True,
    ) -> None:
        """`extra` is more for the server's configuration; for the rest see `guests.Habits`.

        With `disk_kb` the server's leases are on a disk of that size, which only a LAN in namespaces can have. Its
        files are seen from outside only while the LAN runs: `leases` says where.
        """
        super().__init__(directory)
        self._disk_kb = disk_kb
        self._server = SERVERS[server](directory)
        self._extra = extra
        self.partner = self._server.partner(directory) if self._server.partner else None
        self.leases = directory / self._server.leases
        self.conf = directory / self._server.conf
        self.guests_log = directory / "guests.log"
        self.power_socket = self.scratch.path / "power"
        self.reason = _why_no_namespaces()
        self.mode = "replay" if self.reason else server
        self._habits = ["--boot-ms", str(boot_ms)] + ([] if release else ["--vanish"])
        if not disk_kb:
            self.leases.touch()

    def stop(self) -> None:
        """The same as kill: dhcpd has written what it has said."""
        self.kill()

    def stop_dhcpd(self) -> None:
        """Guests go on asking."""
        self._order("stop dhcpd")

    def restart_dhcpd(self) -> None:
        """Start it again, after stopping it if it runs; it writes its file anew. Returns when it serves."""
        self._order("restart dhcpd")

    def stop_partner(self) -> None:
        """The server serves alone."""
        self._order("stop partner")

    def restart_partner(self) -> None:
        """The same as `restart_dhcpd`; returns when the two serve together."""
        self._order("restart partner")

    def _prepare(self) -> None:
        for server in filter(None, (self._server, self.partner)):
            server.prepare(self._extra)

    def _spawn(self) -> Child:
        self.power_socket.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.testbed.lan", self.mode, *self._habits]
        command += ["--disk-kb", str(self._disk_kb)] if self._disk_kb else []
        command += [str(self.directory), str(self.power_socket)]
        environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
        beginning = [] if self.mode == "replay" else namespaces()
        return Child([*beginning, *command], self.log, ready="the LAN is up", environment=environment)

    def _wait(self) -> None:
        self.child.wait_until_ready(_START_TIMEOUT_S)
        if self._disk_kb:
            self.leases = Path(f"/proc/{self.child.pid}/root", *_disk_of(self.directory).parts[1:], self._server.leases)

    def connect(self, port: int) -> socket.socket:
        """A connection to a TCP port of dhcpd's machine, made inside: a socket keeps the network it was made in.
        TestbedError if it is refused.
        """
        (descriptor,) = self._order("connect", port=port)
        return socket.socket(fileno=descriptor)

    def _order(self, order: str, **details: int) -> list[int]:
        """Have something done inside, and wait until it is; descriptors of the sockets that were made for it."""
        back = self.scratch.path / "order"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            asking.bind(str(back))
            asking.settimeout(_ORDER_TIMEOUT_S)
            try:
                asking.sendto(json.dumps({"event": order, **details}).encode(), str(self.power_socket))
                answer, descriptors, _, _ = socket.recv_fds(asking, 4096, 1)
            except OSError as error:
                raise TestbedError(f"The LAN did not answer to {order!r} ({error}), see {self.log}.") from error
            finally:
                back.unlink()
        if answer:
            raise TestbedError(answer.decode())
        return descriptors


def namespaces() -> list[str]:
    """A command's beginning that makes the command the first process of its own namespaces."""
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--"]
    if os.geteuid() == 0:
        return unshare
    # The kernel forgets PR_SET_PDEATHSIG when a process gains capabilities, as it does in a new user namespace.
    return ["unshare", "--user", "--map-root-user", "--", "setpriv", "--pdeathsig", "KILL", "--", *unshare]


def _why_no_namespaces() -> str:
    """Empty if they can be made."""
    probe = [*namespaces(), "ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else (tried.stderr.strip() or f"exit status {tried.returncode}")


# --- inside ----------------------------------------------------------------------------------------------------------


_Order = Callable[[dict[str, Any]], socket.socket | None]
"""Done on what was told with it; the socket it has made, if that is what was asked for."""


class _Running:
    """A DHCP server on its end of the wire."""

    def __init__(self, server: DhcpServer) -> None:
        """It is begun; see `finish`."""
        self._server = server
        self._child = self._start()

    def finish(self) -> None:
        """Wait until it serves."""
        self._child.wait_until_ready(_START_TIMEOUT_S)

    def stop(self) -> None:
        self._child.stop()

    def restart(self) -> None:
        self.stop()
        self._child = self._start()
        self.finish()

    def _start(self) -> Child:
        server = self._server
        log = server.directory / f"{Path(server.conf).stem}.log"
        return Child(server.command(), log, ready=server.ready, environment={**os.environ, **server.environment()})


def _disk_of(directory: Path) -> Path:
    return directory.absolute() / "disk"


def _mount(disk: Path, size_kb: int) -> None:
    disk.mkdir(exist_ok=True)
    run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "leases", disk])


def _lay_wire() -> None:
    run(["ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "guests0"])
    for address in (_GATEWAY, Secondary.own_ip):
        run(["ip", "addr", "add", f"{address}/16", "dev", INTERFACE])
    for end in ("lo", INTERFACE, "guests0"):
        run(["ip", "link", "set", end, "up"])


def _plug_in() -> socket.socket:
    """All IPv4 frames at the guests' end."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    wire.bind(("guests0", 0))
    return wire


def _serve(power: socket.socket, wire: socket.socket | None, guests: Population, orders: dict[str, _Order]) -> None:
    """For ever: guests hear of power changes, of frames and of time passing."""
    sources = [power, *([wire] if wire else [])]
    while True:
        due = guests.tick(time.monotonic())
        patience_s = None if due is None else max(0.0, due - time.monotonic())
        for source in select.select(sources, [], [], patience_s)[0]:
            if source is wire:
                guests.hear(wire.recv(2048), time.monotonic())
                continue
            datagram, sender = power.recvfrom(65536)
            news = json.loads(datagram)
            if news["event"] in orders:
                _obey(orders[news["event"]], news, power, sender)
            else:
                guests.power(news, time.monotonic())


def _obey(order: _Order, news: dict[str, Any], power: socket.socket, sender: str) -> None:
    """Tell the sender what went wrong, or nothing; with the socket it has asked for."""
    try:
        made = order(news)
    except (TestbedError, OSError) as error:
        power.sendto((str(error) or repr(error)).encode(), sender)
        return
    handed = [] if made is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", made.fileno()))]
    power.sendmsg([b""], handed, 0, sender)
    if made is not None:
        made.close()


def _connect(news: dict[str, Any]) -> socket.socket:
    return socket.create_connection((_GATEWAY, news["port"]), _ORDER_TIMEOUT_S / 2)


def main() -> None:
    """The process that LAN starts."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("mode", choices=(*SERVERS, "replay"))
    parser.add_argument("--boot-ms", type=int, default=0)
    parser.add_argument("--vanish", action="store_true")
    parser.add_argument("--disk-kb", type=int, default=0)
    parser.add_argument("directory", type=Path)
    parser.add_argument("power_socket")
    chosen = parser.parse_args()
    directory: Path = chosen.directory
    habits = Habits(boot_s=chosen.boot_ms / 1000, release=not chosen.vanish)
    journal = Journal(directory / "guests.log")

    power = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    power.bind(chosen.power_socket)
    if chosen.mode == "replay":
        replayed = ReplayedGuests(directory / "dhcpd.leases", habits, journal)
        print("the LAN is up", flush=True)
        _serve(power, None, replayed, {"restart dhcpd": lambda _: replayed.rewrite()})
    else:
        _lay_wire()
        server = SERVERS[chosen.mode](directory, _disk_of(directory) if chosen.disk_kb else None)
        if chosen.disk_kb:
            _mount(server.disk, chosen.disk_kb)
            server.lease_file.touch()
        running, wire = _Running(server), _plug_in()
        orders: dict[str, _Order] = {
            "stop dhcpd": lambda _: running.stop(),
            "restart dhcpd": lambda _: running.restart(),
            "connect": _connect,
        }
        if server.partner is not None:
            partner = _Running(server.partner(directory))
            orders |= {"stop partner": lambda _: partner.stop(), "restart partner": lambda _: partner.restart()}
            partner.finish()
        running.finish()
        print("the LAN is up", flush=True)
        _serve(power, wire, Guests(wire.send, habits, journal), orders)


if __name__ == "__main__":
    main()
