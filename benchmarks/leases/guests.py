"""The real dhcpd and its guests: how soon an address is known, beside polling the ARP table."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from typing import Any

from benchmarks.figures import percentile
from benchmarks.leases.churn import mac_of
from benchmarks.leases.parts import Options
from benchmarks.targets import Figure, at_least, at_most
from esxprov.leases.follower import LeaseFile
from esxprov.leases.watcher import LeaseWatcher
from esxprov.model import Lease
from esxprov.tables import table
from tests.testbed.lan import LAN

_AT_ONCE = 8
"""Guests that boot together; dhcpd serves one after the other."""

_POLL_S = 5.0
_PATIENCE_S = 30.0


def measure(options: Options) -> list[Figure]:
    """The figures. RuntimeError where no network namespace can be made: there is no real dhcpd then."""
    macs = [mac_of(number) for number in range(options.guests)]
    asked: dict[str, float] = {}
    heard: dict[str, tuple[float, str]] = {}
    may_boot = threading.Semaphore(_AT_ONCE)

    def hear(lease: Lease) -> None:
        if lease.mac not in heard:
            heard[lease.mac] = time.time(), lease.ip
            may_boot.release()

    directory = options.directory / "lan"
    directory.mkdir()
    with LAN(directory) as lan, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as power:
        if lan.mode != "dhcpd":
            raise RuntimeError(f"no real dhcpd: {lan.reason}")
        with LeaseWatcher(LeaseFile(lan.leases), lan.conf, hear):
            for number, mac in enumerate(macs):
                may_boot.acquire(timeout=_PATIENCE_S)
                asked[mac] = time.time()
                on = {"event": "on", "vm": f"vm{number}", "macs": [mac], "networks": ["Private"]}
                power.sendto(json.dumps(on).encode(), str(lan.power_socket))
            for _ in range(_AT_ONCE):
                may_boot.acquire(timeout=_PATIENCE_S)
        bound = _bound(lan.guests_log.read_text())

    known = [1000 * (heard[mac][0] - asked[mac]) for mac in macs if mac in heard]
    # The poll: an address that answers is seen at the next tick, which is as likely to be near as far.
    chance = random.Random(options.seed)
    polled = [1000 * (bound[mac][0] - asked[mac] + chance.uniform(0, _POLL_S)) for mac in macs if mac in bound]
    before_ack = [1000 * (bound[mac][0] - heard[mac][0]) for mac in macs if mac in bound and mac in heard]
    rows = [
        _row("order to boot -> callback", known),
        _row(f"order to boot -> poll of ARP every {_POLL_S:g} s", polled),
        _row("callback -> the guest has its address", before_ack),
    ]
    print(f"\nReal dhcpd, {options.guests} guests that boot {_AT_ONCE} at once, milliseconds. A guest sends its")
    print("DISCOVER right after the order, so the time from the DISCOVER is a little less.")
    print(table(rows, ("what", "n", "p50", "p99", "most")))
    wrong = sum(1 for mac in macs if mac in heard and mac in bound and heard[mac][1] != bound[mac][1])
    return [
        at_most(f"leases of {options.guests} guests missed", 0, sum(1 for mac in macs if mac not in heard)),
        at_most(f"leases of {options.guests} guests wrong", 0, wrong),
        at_most("DISCOVER to callback, p99, ms", 25, percentile(known, 99)),
        at_least(f"earlier than an ARP poll every {_POLL_S:g} s", 20, percentile(polled, 50) / percentile(known, 50)),
    ]


def _bound(log: str) -> dict[str, tuple[float, str]]:
    """MAC -> when the guest had its address, and which, by its own account."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines()]
    return {line["mac"]: (line["time"], line["ip"]) for line in lines if line["did"] == "bound"}


def _row(what: str, times: list[float]) -> dict[str, Any]:
    numbers = {"p50": percentile(times, 50), "p99": percentile(times, 99), "most": max(times)}
    return {"what": what, "n": len(times), **{name: f"{ms:.2f}" for name, ms in numbers.items()}}
