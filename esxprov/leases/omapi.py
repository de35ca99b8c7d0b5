"""Ask dhcpd itself for a lease, and end one, by OMAPI.

dhcpd writes nothing when a client gets its young lease again, but `cltt`, the time the client was last heard, moves in
its memory. And a lease that was ended here before the client asks is written afresh, with the same address.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeVar

from esxprov.leases.omapi_key import OmapiKey
from esxprov.leases.omapi_wire import GREETING, OPEN, STATUS, UPDATE, Decoder, Message, ProtocolError, Received

_STATES = {1: "free", 2: "active", 3: "expired", 4: "released", 5: "abandoned", 6: "reset", 7: "backup"}
_NEVER = 0x7FFFFFFF
_ETHERNET = 1
_HEARD_FROM_A_PEER = ("tsfp", "atsfp")
"""Times of a lease that are zero without failover; `tstp` is not, after a restart."""

_SUCCESS, _NOT_FOUND = 0, 23
_MULTIPLE, _NO_KEYS, _KEY_UNKNOWN, _INVALID_KEY = (0x60000 + code for code in (6, 9, 10, 11))

_T = TypeVar("_T")


class OmapiError(Exception):
    """dhcpd could not be asked; one sentence: what was tried, on what, what to do."""


@dataclass(frozen=True, slots=True)
class OmapiLease:
    """What dhcpd has in memory for an address of its ranges.

    `state` is a binding state as in its lease file; times are epoch seconds by dhcpd's clock; `ends` is None for
    never; `mac` is None if nobody had the address yet.
    """

    ip: str
    mac: str | None
    state: str
    ends: int | None
    cltt: int


class Omapi:
    """The OMAPI port of one dhcpd. Thread-safe.

    It keeps one connection, made at the first question and made again when dhcpd has closed it. Threads take turns;
    `timeout_s` is for all of a call, the wait for one's turn included. Every method raises OmapiError if dhcpd cannot
    be asked, and then the next call connects anew.
    """

    def __init__(
        self,
        host: str,
        port: int,
        key: OmapiKey | None,
        timeout_s: float,
        *,
        connect: Callable[[], socket.socket] | None = None,
    ) -> None:
        """`connect` makes the connection where dhcpd cannot be reached by host and port; those only name it then."""
        self._address = host, port
        self._key = key
        self._timeout_s = timeout_s
        self._connect = connect
        self._lock = threading.Lock()
        self._session: _Session | None = None

    def lease(self, ip: str) -> OmapiLease | None:
        """The lease of an address; None if dhcpd has no such address to give away."""

        def work(session: _Session) -> OmapiLease | None:
            found = session.by_ip(ip)
            return found.lease if found else None

        return self._call(f"the lease of {ip}", work)

    def leases(self, mac: str, candidates: Iterable[str]) -> list[OmapiLease]:
        """The leases of a MAC, in whatever state. If it has several, dhcpd does not say which: then those candidate
        addresses that are the MAC's.
        """

        def work(session: _Session) -> list[OmapiLease]:
            try:
                answers = [session.by_mac(mac)]
            except _Several:
                answers = [session.by_ip(ip) for ip in dict.fromkeys(candidates)]
            return [found.lease for found in answers if found and found.lease.mac == mac]

        return self._call(f"the leases of {mac}", work)

    def expire(self, ip: str, mac: str, now: float) -> bool:
        """See to it that the lease of an address has ended, so that the next one is written; whether it has.

        Nothing is changed if it is not the MAC's, or if dhcpd shares it with a failover peer: that one would refuse the
        end ("invalid state transition"), and go on to give the address.
        """

        def work(session: _Session) -> bool:
            found = session.by_ip(ip)
            if found is None or found.lease.mac != mac or found.is_shared:
                return False
            lease = found.lease
            if lease.state == "active" and (lease.ends is None or lease.ends > now):
                # By dhcpd's own clock the client was heard in the past, whatever our clock says.
                session.end(found.handle, min(int(now), lease.cltt or int(now)) - 1)
            return True

        return self._call(f"the end of the lease of {ip}", work)

    def close(self) -> None:
        """Let go of the connection; the next call makes another."""
        with self._lock:
            self._drop()

    def _call(self, what: str, work: Callable[[_Session], _T]) -> _T:
        deadline = time.monotonic() + self._timeout_s
        if not self._lock.acquire(timeout=self._timeout_s):
            raise self._error(what, f"other questions were not answered within {self._timeout_s:g} s")
        try:
            return self._work(deadline, work)
        except TimeoutError as error:
            raise self._error(what, f"no answer within {self._timeout_s:g} s: does dhcpd run there?") from error
        except ConnectionRefusedError as error:
            ask = f"does dhcpd run there, and does dhcpd.conf say `omapi-port {self._address[1]};`?"
            raise self._error(what, f"{error.strerror}: {ask}") from error
        except _Refused as error:
            raise self._error(what, self._why_refused(error)) from error
        except ProtocolError as error:
            raise self._error(what, f"{error}: is this the `omapi-port` of dhcpd.conf?") from error
        except (OSError, ValueError) as error:
            raise self._error(what, f"{error}: does dhcpd run there, and is the address right?") from error
        finally:
            self._lock.release()

    def _work(self, deadline: float, work: Callable[[_Session], _T]) -> _T:
        """Called with the lock."""
        try:
            if self._session is not None:
                self._session.deadline = deadline
                try:
                    return work(self._session)
                except ConnectionError:  # dhcpd was restarted meanwhile
                    self._drop()
            self._session = _Session(self._dial(deadline), deadline)
            self._session.begin(self._key)
            return work(self._session)
        except BaseException:
            self._drop()
            raise

    def _dial(self, deadline: float) -> socket.socket:
        return self._connect() if self._connect else socket.create_connection(self._address, _left(deadline))

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

    def _error(self, what: str, reason: str) -> OmapiError:
        host, port = self._address
        return OmapiError(f"Cannot ask dhcpd at {host}:{port} by OMAPI for {what}: {reason}")

    def _why_refused(self, refusal: _Refused) -> str:
        if self._key and (refusal.of_key or refusal.code in (_KEY_UNKNOWN, _INVALID_KEY)):
            return (
                f"it does not accept the key {self._key.name}: name, algorithm and secret in the key file must be "
                f"those of the key that `omapi-key` names in dhcpd.conf."
            )
        if refusal.code == _NO_KEYS and self._key is None:
            return "it wants a key: set [leases] omapi_key_file to a file with the key that `omapi-key` names."
        return f"it answers {refusal.message!r} (result {refusal.code:#x}): see its log."


class _Refused(Exception):
    """dhcpd answered with a status that is not success. `of_key`: it was asked for the key itself."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.of_key = False


class _Several(Exception):
    """dhcpd knows several leases for what it was asked."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A lease, and what dhcpd calls it on this connection. `is_shared`: with a failover peer."""

    handle: int
    lease: OmapiLease
    is_shared: bool


class _Session:
    """One connection. Raises OSError, ProtocolError and _Refused; after those it must be closed."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.deadline = deadline
        self._connection = connection
        self._decoder = Decoder()
        self._number = 0
        self._key: OmapiKey | None = None
        self._authority = 0

    def begin(self, key: OmapiKey | None) -> None:
        """Greet, and show which key signs what follows."""
        self._send(GREETING)
        if key is None:
            return
        about = {"name": key.name.encode(), "algorithm": key.algorithm.encode()}
        try:
            answer = self._ask(OPEN, values={"type": b"authenticator"}, about=about)
        except _Refused as refusal:
            refusal.of_key = True
            raise
        self._key, self._authority = key, answer.handle

    def by_ip(self, ip: str) -> _Found | None:
        """The lease of an address."""
        found = self._look_up({"ip-address": IPv4Address(ip).packed})
        if found is not None and found.lease.ip != ip:
            raise ProtocolError(f"it answers for {found.lease.ip} instead of {ip}")
        return found

    def by_mac(self, mac: str) -> _Found | None:
        """The one lease of a MAC. _Several if there are several."""
        return self._look_up({"hardware-address": bytes.fromhex(mac.replace(":", ""))})

    def end(self, handle: int, at: int) -> None:
        """Set the end of a lease."""
        self._ask(UPDATE, handle=handle, about={"ends": struct.pack("!I", max(at, 1))})

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _look_up(self, by: Mapping[str, bytes]) -> _Found | None:
        try:
            answer = self._ask(OPEN, values={"type": b"lease"}, about=by)
        except _Refused as refusal:
            if refusal.code == _NOT_FOUND:
                return None
            if refusal.code == _MULTIPLE:
                raise _Several from refusal
            raise
        is_shared = any(any(answer.about.get(name, b"")) for name in _HEARD_FROM_A_PEER)
        return _Found(answer.handle, _lease(answer.about), is_shared)

    def _ask(
        self,
        operation: int,
        *,
        handle: int = 0,
        values: Mapping[str, bytes] | None = None,
        about: Mapping[str, bytes] | None = None,
    ) -> Message:
        self._number += 1
        message = Message(operation, self._number, handle, 0, self._authority, values or {}, about or {})
        self._send(message.encode(self._key))
        received = self._receive()
        answer = received.message
        if answer.answers != self._number:
            raise ProtocolError("its answer is to another question")
        if answer.operation == STATUS:
            code = _number(answer.values, "result")
            # dhcpd does not sign its refusal of a signature.
            if code != _SUCCESS:
                raise _Refused(code, answer.values.get("message", b"").decode("ascii", "replace"))
        elif answer.operation != UPDATE:
            raise ProtocolError(f"its answer is operation {answer.operation}")
        if self._key is not None and not received.is_signed_by(self._key):
            raise ProtocolError("its answer is not signed with the key")
        return answer

    def _send(self, data: bytes) -> None:
        self._connection.settimeout(_left(self.deadline))
        self._connection.sendall(data)

    def _receive(self) -> Received:
        while True:
            self._connection.settimeout(_left(self.deadline))
            data = self._connection.recv(16384)
            if not data:
                raise ConnectionResetError("it closed the connection")
            match self._decoder.feed(data):
                case [received]:
                    return received
                case [_, *_]:
                    raise ProtocolError("it answers more than it was asked")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _lease(about: Mapping[str, bytes]) -> OmapiLease:
    ip = about.get("ip-address", b"")
    if len(ip) != 4:
        raise ProtocolError("it answers with something else than a lease of an IPv4 address")
    octets = about.get("hardware-address", b"")
    is_ethernet = len(octets) == 6 and _number(about, "hardware-type") == _ETHERNET
    ends = _number(about, "ends")
    return OmapiLease(
        ip=str(IPv4Address(ip)),
        mac=octets.hex(":") if is_ethernet else None,
        state=_STATES.get(_number(about, "state"), "unknown"),
        ends=None if ends >= _NEVER else ends,
        cltt=_number(about, "cltt"),
    )


def _number(values: Mapping[str, bytes], name: str) -> int:
    value = values.get(name, b"")
    if len(value) != 4:
        raise ProtocolError(f"its answer lacks the number {name!r}")
    return int.from_bytes(value, "big")
