"""CPU time by the size of a file, however odd the file: twice the bytes must not take much more than twice the time."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from benchmarks.leases.churn import Churn
from benchmarks.leases.parts import ROUNDS, Options
from benchmarks.targets import Figure, at_most
from esxprov.leases.index import Index
from esxprov.tables import table

_BYTES = 1 << 20
"""Much more than is ever carried from one feed to the next."""
_READ = 64 * 1024


def measure(options: Options) -> list[Figure]:
    """The figure: of all kinds of files and both ways of feeding, the worst growth."""
    rows: list[dict[str, str]] = []
    growths = []
    for name, make in _kinds(options.seed).items():
        small, large = make(_BYTES), make(2 * _BYTES)
        for pieces, feed in (("whole", _whole), (f"{_READ} bytes at a time", _in_pieces)):
            # In turns: the machine's own pace changes within the seconds that one size takes.
            rounds = [(feed(small), feed(large)) for _ in range(ROUNDS)]
            growths.append(statistics.median(twice / once for once, twice in rounds))
            ms_per_mb = 1000 * min(once for once, _ in rounds) * (1 << 20) / _BYTES
            rows.append({"file": name, "fed": pieces, "ms_per_mb": f"{ms_per_mb:.1f}", "growth": f"{growths[-1]:.2f}"})
    print("\nCPU milliseconds per MB of a file, and how often as much a file twice as long takes.")
    print(table(rows, ("file", "fed", "ms_per_mb", "growth")))
    return [at_most("CPU of twice the bytes, the worst of all files", 2.5, max(growths))]


def _kinds(seed: int) -> dict[str, Callable[[int], bytes]]:
    now = int(time.time())

    def churn(size: int) -> bytes:
        return b"".join(Churn(size // 300, seed, now))[:size]

    def mutated(size: int) -> bytes:
        chance, data = random.Random(seed), bytearray(churn(size))
        for _ in range(size // 100):
            data[chance.randrange(len(data))] = chance.choice(b'{};"\\#\n\0 xl')
        return bytes(data)

    def repeated(what: bytes) -> Callable[[int], bytes]:
        return lambda size: (what * (size // len(what) + 1))[:size]

    return {
        "an hour of leases": churn,
        "mutated": mutated,
        "noise": lambda size: random.Random(seed).randbytes(size),
        "NULs": repeated(b"\0"),
        "one word": repeated(b"x"),
        "one string": repeated(b'"'),
        "escapes": lambda size: b'host x { y "' + repeated(b"\\\\")(size),
        "opening braces": repeated(b"{"),
        "an open block": lambda size: b"host x {\n" + repeated(b"y z;\n")(size),
        "an open comment": lambda size: b"#" + repeated(b" lease")(size),
        "beginnings of records": repeated(b"lease 10.77.1.1 {\n"),
        "half beginnings": repeated(b"lease 10.77.1.1 "),
        "hosts": repeated(b"host x {\n  hardware ethernet 00:50:56:00:00:01;\n  fixed-address 10.77.2.1;\n}\n"),
        "spaces in a beginning": lambda size: b"lease" + repeated(b" ")(size),
        "digits in a beginning": lambda size: b"lease " + repeated(b"1.")(size),
        "a long record": lambda size: b"lease 10.77.1.1 {\n" + repeated(b'  set x = "{";\n')(size),
        "times": lambda size: b"lease 10.77.1.1 {\n  starts " + repeated(b"1 ")(size),
    }


def _whole(data: bytes) -> float:
    def read(begin: int, end: int) -> bytes:
        return data[begin:end]

    before = time.process_time()
    Index().feed_whole(len(data), read)
    return time.process_time() - before


def _in_pieces(data: bytes) -> float:
    before = time.process_time()
    index = Index()
    for begin in range(0, len(data), _READ):
        index.feed(data[begin : begin + _READ])
    return time.process_time() - before
