"""OMAPI, the control protocol of ISC dhcpd, as bytes. Pure.

Both sides begin with a greeting (version, length of a header), then send messages:

    authority  length of the signature  operation  handle  number  answers      32 bits each
    values about the message, then values of the object: 16-bit length, name, 32-bit length, value; ended by 16 bits 0
    signature

The signature covers what is between authority and itself. All numbers are big-endian.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

from esxprov.leases.omapi_key import OmapiKey

OPEN, UPDATE, STATUS = 1, 3, 5
LONGEST_MESSAGE = 64 * 1024
"""Bytes. dhcpd's own are some hundred long; a peer that announces more is not dhcpd."""

_VERSION = 100
_GREETING = struct.Struct("!II")
_AUTHORITY = struct.Struct("!I")
_HEADER = struct.Struct("!IIIII")
_NAME_LENGTH = struct.Struct("!H")
_VALUE_LENGTH = struct.Struct("!I")

GREETING = _GREETING.pack(_VERSION, _AUTHORITY.size + _HEADER.size)


class ProtocolError(ValueError):
    """The peer does not speak OMAPI; the message says how that shows."""


@dataclass(frozen=True, slots=True)
class Message:
    """`authority` is the peer's handle of the key it is signed with, 0 without; `answers` is the other's `number`."""

    operation: int
    number: int
    handle: int = 0
    answers: int = 0
    authority: int = 0
    values: Mapping[str, bytes] = field(default_factory=dict)
    about: Mapping[str, bytes] = field(default_factory=dict)

    def encode(self, key: OmapiKey | None) -> bytes:
        """Its bytes, signed if there is a key."""
        size = key.size if key else 0
        header = _HEADER.pack(size, self.operation, self.handle, self.number, self.answers)
        signed = header + _encoded(self.values) + _encoded(self.about)
        return _AUTHORITY.pack(self.authority) + signed + (key.sign(signed) if key else b"")


@dataclass(frozen=True, slots=True)
class Received:
    """A message with what its signature covers."""

    message: Message
    signed: bytes
    signature: bytes

    def is_signed_by(self, key: OmapiKey) -> bool:
        """Whether whoever sent it has the key."""
        return hmac.compare_digest(key.sign(self.signed), self.signature)


def _encoded(values: Mapping[str, bytes]) -> bytes:
    pairs = []
    for text, value in values.items():
        name = text.encode("ascii")
        pairs += [_NAME_LENGTH.pack(len(name)), name, _VALUE_LENGTH.pack(len(value)), value]
    return b"".join([*pairs, _NAME_LENGTH.pack(0)])


class Decoder:
    """Messages from the bytes that a peer sends, in whatever pieces they come.

    It takes time linear in the bytes, and keeps at most one message of them. After a ProtocolError it is of no use.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._done: list[Received] = []
        self._parser = self._parse()
        self._wanted = next(self._parser)

    def feed(self, data: bytes) -> list[Received]:
        """The messages that these bytes complete. ProtocolError if they are none."""
        self._buffer += data
        while len(self._buffer) >= self._wanted:
            piece = bytes(self._buffer[: self._wanted])
            del self._buffer[: self._wanted]
            self._wanted = self._parser.send(piece)
        done, self._done = self._done, []
        return done

    def _parse(self) -> Generator[int, bytes, None]:
        """Yields how many bytes it needs next, and is sent them."""
        version, header_size = _GREETING.unpack((yield _GREETING.size))
        surplus = header_size - _AUTHORITY.size - _HEADER.size
        if version != _VERSION or not 0 <= surplus <= LONGEST_MESSAGE:
            raise ProtocolError(f"its greeting is not that of OMAPI version {_VERSION}")
        while True:
            (authority,) = _AUTHORITY.unpack((yield _AUTHORITY.size))
            signed = bytearray((yield _HEADER.size + surplus))
            size, operation, handle, number, answers = _HEADER.unpack_from(signed)
            values = yield from self._values(signed)
            about = yield from self._values(signed)
            signature = yield _affordable(size, signed)
            message = Message(operation, number, handle, answers, authority, values, about)
            self._done.append(Received(message, bytes(signed), signature))

    def _values(self, signed: bytearray) -> Generator[int, bytes, dict[str, bytes]]:
        """Of a name that comes twice the first value counts: dhcpd sends its own values before an admin's."""
        found: dict[str, bytes] = {}
        while True:
            piece = yield _affordable(_NAME_LENGTH.size, signed)
            signed += piece
            (length,) = _NAME_LENGTH.unpack(piece)
            if length == 0:
                return found
            name = yield _affordable(length, signed)
            signed += name
            piece = yield _affordable(_VALUE_LENGTH.size, signed)
            signed += piece
            value = yield _affordable(_VALUE_LENGTH.unpack(piece)[0], signed)
            signed += value
            found.setdefault(name.decode("latin-1"), value)


def _affordable(size: int, so_far: bytearray) -> int:
    if len(so_far) + size > LONGEST_MESSAGE:
        raise ProtocolError(f"it announces a message of more than {LONGEST_MESSAGE} bytes")
    return size
