"""What dhcpd writes, byte by byte, for tests: the writer's order, spacing and times."""

from __future__ import annotations

import time

NOW = 1_795_500_000
"""The tests' clock, epoch seconds."""

A, B, C = "00:50:56:00:01:0a", "00:50:56:00:01:0b", "00:50:56:00:01:0c"

HEADER = (
    b"# The format of this file is documented in the dhcpd.leases(5) manual page.\n"
    b"# This lease file was written by isc-dhcp-4.4.3-P1\n\n"
    b"# authoring-byte-order entry is generated, DO NOT DELETE\n"
    b"authoring-byte-order little-endian;\n\n"
)
DUID = rb'server-duid "\000\001\000\001;}{\"lease 10.77.9.9 {";' + b"\n\n"


def at(seconds: int) -> str:
    return time.strftime("%w %Y/%m/%d %H:%M:%S", time.gmtime(seconds))


def record(
    ip: str,
    mac: str | None,
    state: str = "active",
    *,
    starts: int = NOW - 60,
    ends: int | None = NOW + 7140,
    cltt: int | None = None,
    before_mac: str = "",
    after_mac: str = "",
) -> bytes:
    lines = [
        f"lease {ip} {{",
        f"  starts {at(starts)};",
        f"  ends {'never' if ends is None else at(ends)};",
        f"  cltt {at(starts if cltt is None else cltt)};",
        f"  binding state {state};",
    ]
    if state == "active":
        lines += ["  next binding state free;", "  rewind binding state free;"]
    lines += [f"  {line}" for line in before_mac.splitlines()]
    if mac is not None:
        lines.append(f"  hardware ethernet {mac};")
    lines += [f"  {line}" for line in after_mac.splitlines()]
    return "\n".join([*lines, "}", ""]).encode()


def host(name: str, *statements: str) -> bytes:
    return "\n".join([f"host {name} {{", *(f"  {line}" for line in statements), "}", ""]).encode()


def fixed_host(name: str, mac: str, ip: str) -> bytes:
    return host(name, "dynamic;", f"hardware ethernet {mac};", f"fixed-address {ip};")


NESTED_HOST = host(
    "vcl-9",
    "dynamic;",
    f"hardware ethernet {C};",
    "fixed-address 10.77.250.9;",
    'supersede host-name = "vcl-9";',
    'if option vendor-class-identifier = "ScaleMP" {',
    '  supersede server.filename = "vsmp/pxelinux.0";',
    "} else {",
    "  hardware ethernet 00:00:00:00:00:01;",
    "  supersede server.next-server = 0a:4d:00:01;",
    "}",
)
FAILOVER_STATE = (
    b'\nfailover peer "fo" state {\n  my state normal at 2 2026/11/24 05:41:50;\n'
    b"  partner state normal at 2 2026/11/24 05:41:50;\n  mclt 60;\n}\n"
)
ON_BLOCK = 'on expiry or release {\n  log (info, concat ("gone }", "{"));\n}'
