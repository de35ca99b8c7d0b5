"""What the client makes of a peer that is not a well-behaved dhcpd: each time one error, and never a hang."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from esxprov.leases.omapi import Omapi, OmapiError
from esxprov.leases.omapi_key import OmapiKey
from esxprov.leases.omapi_wire import GREETING, STATUS, UPDATE, Decoder, Message

IP, MAC = "10.77.1.1", "00:50:56:00:01:01"
KEY = OmapiKey("omapi_key", b"secret")
SOON_S = 0.05
LEASE = {
    "state": struct.pack("!I", 2),
    "ip-address": bytes((10, 77, 1, 1)),
    "hardware-address": bytes.fromhex(MAC.replace(":", "")),
    "hardware-type": struct.pack("!I", 1),
    "ends": struct.pack("!I", 2000),
    "cltt": struct.pack("!I", 1000),
}

Script = Callable[[Message], bytes | None]
"""What a peer sends for a message; None: it closes the connection."""


class Peer:
    """Answers as it is told to; `connections` counts how often it was called."""

    def __init__(self, script: Script, greeting: bytes = GREETING) -> None:
        self.connections = 0
        self._script = script
        self._greeting = greeting
        self._resources = ExitStack()

    def connect(self) -> socket.socket:
        self.connections += 1
        ours, theirs = socket.socketpair()
        self._resources.enter_context(ours)
        thread = threading.Thread(target=self._serve, args=(ours,), daemon=True)
        thread.start()
        self._resources.callback(thread.join)
        self._resources.callback(theirs.close)
        return theirs

    def close(self) -> None:
        self._resources.close()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(ConnectionError):  # the client has had enough
            connection.sendall(self._greeting)
            decoder = Decoder()
            while data := connection.recv(65536):
                for received in decoder.feed(data):
                    answer = self._script(received.message)
                    if answer is None:
                        connection.shutdown(socket.SHUT_RDWR)
                        return
                    connection.sendall(answer)


@pytest.fixture
def peers() -> Iterator[Callable[..., Peer]]:
    with ExitStack() as stack:

        def peer(script: Script, greeting: bytes = GREETING) -> Peer:
            made = Peer(script, greeting)
            stack.callback(made.close)
            return made

        yield peer


def asking(peer: Peer, key: OmapiKey | None = None, timeout_s: float = 10) -> Omapi:
    return Omapi("dhcpd.example", 7911, key, timeout_s, connect=peer.connect)


def lease(message: Message, **other: bytes | None) -> bytes:
    about = {name: value for name, value in {**LEASE, **other}.items() if value is not None}
    return Message(UPDATE, 1, 7, message.number, about=about).encode(None)


def status(message: Message, code: int) -> bytes:
    said = {"result": struct.pack("!I", code), "message": b"what dhcpd says"}
    return Message(STATUS, 1, 0, message.number, values=said).encode(None)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (lambda message: b"", "no answer within"),
        (lambda message: lease(message)[:-1], "no answer within"),
        (lambda message: None, "closed the connection"),
        (lambda message: b"\xff" * 4096, "is this the `omapi-port`"),
        (lambda message: lease(Message(UPDATE, 99)), "to another question"),
        (lambda message: lease(message) * 2, "more than it was asked"),
        (lambda message: Message(9, 1, 0, message.number).encode(None), "operation 9"),
        (lambda message: Message(STATUS, 1, 0, message.number).encode(None), "lacks the number 'result'"),
        (lambda message: Message(UPDATE, 1, 0, message.number).encode(None), "something else than a lease"),
        (lambda message: status(message, 0), "something else than a lease"),
        (lambda message: status(message, 25), "answers 'what dhcpd says' (result 0x19)"),
        (lambda message: lease(message, **{"ip-address": bytes(4)}), "for 0.0.0.0 instead of 10.77.1.1"),
        (lambda message: lease(message, cltt=None), "lacks the number 'cltt'"),
    ],
)
def test_a_peer_that_misbehaves_is_one_error_that_names_it_and_what_was_asked(
    peers: Callable[..., Peer], script: Script, says: str
) -> None:
    timeout_s = SOON_S if says.startswith("no answer") else 10
    with pytest.raises(OmapiError) as caught:
        asking(peers(script), timeout_s=timeout_s).lease(IP)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"Cannot ask dhcpd at dhcpd.example:7911 by OMAPI for the lease of {IP}: ")


def test_a_peer_that_is_no_omapi_at_all_is_recognised(peers: Callable[..., Peer]) -> None:
    with pytest.raises(OmapiError, match="greeting"):
        asking(peers(lambda message: b"", b"SSH-2.0-OpenSSH_9.2p1\r\n")).lease(IP)


def test_an_answer_that_is_not_signed_is_not_believed(peers: Callable[..., Peer]) -> None:
    with pytest.raises(OmapiError, match="not signed"):
        asking(peers(lease), KEY).lease(IP)


def test_a_port_where_nobody_listens_is_an_error_that_says_what_to_set() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(OmapiError, match=f"`omapi-port {port};`"):
            Omapi("127.0.0.1", port, None, 10).lease(IP)


def test_a_host_name_that_is_none_is_the_same_error() -> None:
    with pytest.raises(OmapiError, match="is the address right"):
        Omapi("a" * 64, 7911, None, 10).lease(IP)


def test_the_connection_is_kept_and_made_again_when_the_peer_has_closed_it(peers: Callable[..., Peer]) -> None:
    peer = peers(lambda message: lease(message) if message.number < 3 else None)
    omapi = asking(peer)
    counted = []
    for _ in range(5):
        assert omapi.lease(IP) is not None
        counted.append(peer.connections)
    assert counted == [1, 1, 2, 2, 3]


def test_after_an_error_the_next_call_starts_afresh(peers: Callable[..., Peer]) -> None:
    peer: Peer = peers(lambda message: lease(message) if peer.connections > 1 else b"\xff" * 4096)
    omapi = asking(peer)
    with pytest.raises(OmapiError):
        omapi.lease(IP)
    assert omapi.lease(IP) is not None


def test_who_waits_behind_a_question_that_is_not_answered_waits_no_longer_than_its_time(
    peers: Callable[..., Peer],
) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def slow(message: Message) -> bytes:
        asked.set()
        may_answer.wait()
        return lease(message)

    omapi = asking(peers(slow), timeout_s=SOON_S)
    with ThreadPoolExecutor() as threads:
        calls = [threads.submit(omapi.lease, IP) for _ in range(3)]
        asked.wait()
        errors = [call.exception() for call in calls]
        may_answer.set()
    assert {type(error) for error in errors} == {OmapiError}


@pytest.mark.parametrize("other", [{"hardware-type": struct.pack("!I", 6)}, {"hardware-address": bytes(8)}])
def test_a_card_that_is_no_ethernet_has_no_mac(peers: Callable[..., Peer], other: dict[str, bytes]) -> None:
    found = asking(peers(lambda message: lease(message, **other))).lease(IP)
    assert found is not None
    assert found.mac is None
