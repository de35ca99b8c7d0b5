"""OMAPI's bytes, in whatever pieces and however wrong."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.leases.omapi_key import OmapiKey
from esxprov.leases.omapi_wire import GREETING, LONGEST_MESSAGE, OPEN, UPDATE, Decoder, Message, ProtocolError, Received

KEY = OmapiKey("omapi_key", b"secret")
HEADER = struct.pack("!6I", 0, 0, UPDATE, 7, 1, 2)

words = st.integers(0, 2**32 - 1)
names = st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=20)
values = st.dictionaries(names, st.binary(max_size=40), max_size=5)
messages = st.builds(Message, words, words, words, words, words, values, values)
splits = st.lists(st.integers(1, 50), max_size=60)


def in_pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


def decoded(*pieces: bytes) -> list[Received]:
    decoder = Decoder()
    return [received for piece in pieces for received in decoder.feed(piece)]


@given(st.lists(messages, max_size=3), st.sampled_from([None, KEY]), splits)
def test_messages_come_out_as_they_went_in_however_they_are_split(
    sent: list[Message], key: OmapiKey | None, sizes: list[int]
) -> None:
    stream = GREETING + b"".join(message.encode(key) for message in sent)
    received = decoded(*in_pieces(stream, sizes))
    assert [one.message for one in received] == sent
    assert all(one.is_signed_by(KEY) == (key is KEY) for one in received)


@given(messages, st.data())
def test_a_message_is_complete_with_its_last_byte_and_not_before(message: Message, data: st.DataObject) -> None:
    stream = GREETING + message.encode(KEY)
    end = data.draw(st.integers(0, len(stream) - 1))
    decoder = Decoder()
    assert decoder.feed(stream[:end]) == []
    assert [one.message for one in decoder.feed(stream[end:])] == [message]


@given(messages, st.data())
def test_a_change_of_any_signed_bit_shows(message: Message, data: st.DataObject) -> None:
    stream = bytearray(message.encode(KEY))
    place = data.draw(st.integers(4, len(stream) - 1))
    stream[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        received = decoded(GREETING, bytes(stream))
    except ProtocolError:
        return
    assert not any(one.is_signed_by(KEY) for one in received)


@given(st.binary(max_size=400), st.booleans(), splits)
def test_garbage_is_a_protocol_error_or_not_yet_a_message(data: bytes, greets: bool, sizes: list[int]) -> None:
    """And the same one, whole or in pieces."""

    def outcome(*pieces: bytes) -> object:
        try:
            return decoded(*pieces)
        except ProtocolError as error:
            return str(error)

    stream = (GREETING if greets else b"") + data
    assert outcome(*in_pieces(stream, sizes)) == outcome(stream)


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1",
        struct.pack("!II", 99, 24),
        struct.pack("!II", 100, 23),
        struct.pack("!II", 100, 2**32 - 1),
    ],
)
def test_another_greeting_is_refused(greeting: bytes) -> None:
    with pytest.raises(ProtocolError, match="greeting"):
        decoded(greeting)


@pytest.mark.parametrize(
    "huge",
    [
        HEADER + struct.pack("!H1sI", 1, b"a", 2**32 - 1),
        struct.pack("!6I", 0, 2**32 - 1, UPDATE, 7, 1, 2) + bytes(4),
        HEADER + struct.pack("!H2000sI2000x", 2000, b"a", 2000) * (LONGEST_MESSAGE // 4000 + 1),
    ],
    ids=["value", "signature", "many values"],
)
def test_a_message_is_refused_as_soon_as_it_announces_too_much(huge: bytes) -> None:
    with pytest.raises(ProtocolError, match="more than"):
        decoded(GREETING, huge)


def test_of_a_name_that_comes_twice_the_first_value_counts() -> None:
    pair = struct.Struct("!H4sI1s")
    twice = pair.pack(4, b"cltt", 1, b"1") + pair.pack(4, b"cltt", 1, b"2")
    (received,) = decoded(GREETING, HEADER + bytes(2) + twice + bytes(2))
    assert received.message.about == {"cltt": b"1"}


def test_what_a_longer_header_says_more_is_passed_over_but_signed() -> None:
    message = Message(OPEN, 1, about={"name": b"value"})
    plain = message.encode(None)
    (received,) = decoded(struct.pack("!II", 100, 28), plain[:24] + b"more" + plain[24:])
    assert received.message == message
    assert b"more" in received.signed
