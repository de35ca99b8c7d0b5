"""`python -m tests.fuzz.leases CORPUS [libFuzzer option ...]`: bytes for the parser of lease files, led by coverage.

What must hold for all bytes: nothing raises, any split reads as the whole, so does reading backwards in pieces, the
fast and the strict reading agree, and what is carried is bounded. What is found is left as a file by libFuzzer.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["esxprov.leases"]):
    from esxprov.leases import parser
    from esxprov.leases.index import Index

from tests.unit.leases.test_torn import PARTS

Found = tuple[object, ...]

_CANONICAL = parser._CANONICAL
_NOTHING = re.compile(rb"(?!)")
_SMALL_PIECE = 64
_SMALL_STRETCH = 256


def test_one_input(data: bytes) -> None:
    """The first bytes say where the rest is cut."""
    cuts, text = data[:4], data[4:]
    parsers = [parser.Parser() for _ in range(4)]
    whole, pieces, backwards, strict = (Index(reader=reader) for reader in parsers)
    whole.feed(text)
    expected = _found(whole)

    begin = 0
    for cut in sorted(cut * (len(text) + 1) // 256 for cut in cuts):
        pieces.feed(text[begin:cut])
        begin = cut
    pieces.feed(text[begin:])
    assert _found(pieces) == expected, "a split reads otherwise"
    assert len(parsers[1]._carry) <= parser.LONGEST_DECLARATION, "too much is carried"

    backwards.feed_whole(len(text), lambda begin, end: text[begin:end])
    assert _found(backwards) == expected, "from the end it reads otherwise"
    assert backwards.position == whole.position, "the position is another"
    assert parsers[2]._carry == parsers[0]._carry, "another rest is carried"

    parser._CANONICAL = _NOTHING
    strict.feed(text)
    parser._CANONICAL = _CANONICAL
    assert _found(strict) == expected, "the strict reading is another"

    list(whole.leases(0))


def _found(index: Index) -> Found:
    records = sorted(
        (found.ip, found.mac, found.state, found.starts, found.ends, found.cltt, found.hostname_text, found.sequence)
        for found in index._by_ip.values()
    )
    return records, index._hosts, list(index.all_fixed())


def main() -> None:
    """The command."""
    parser._PIECE, parser._LONGEST_STRETCH = _SMALL_PIECE, _SMALL_STRETCH
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate([*PARTS, b"".join(PARTS)]):
        (corpus / f"part-{number}").write_bytes(b"\x40\x80\xa0\xff" + part)
    words = corpus.parent / "words"
    terms = ("lease ", "host ", "binding state ", "hardware ethernet ", "\\x0a}\\x0a", "never")
    words.write_text("".join(f'"{term}"\n' for term in terms))
    options = ["-max_len=4096", f"-dict={words}", *sys.argv[2:]]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
