"""One login on one endpoint: connecting, logging in, and logging in again when the session has expired."""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar

from esxprov.model import EndpointConfig
from esxprov.vsphere import tls
from esxprov.vsphere.api import SoapStubAdapter, vim

T = TypeVar("T")

log = logging.getLogger(__name__)

API_VERSION = "vim.version.version11"
"""vSphere 6.5, the oldest we serve. Every newer server answers it, and nothing we call is newer. Asking the server for
its version instead would be a request without a timeout (pyvmomi #627), which a hanging host never answers.
"""

IDLE_S = 25
"""A connection unused for longer is not used again: servers close theirs silently, and the next call would be lost."""

DROPPED = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)


class Session:
    """Belongs to one thread, except for `close` and `interrupt`. Nothing is connected before it is used.

    Methods raise what pyVmomi raises; `Endpoint` translates.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self.logins = 0  # what the server keeps for a session (filters) dies with it, and is made anew by this count
        self._waiter: tuple[int, Any] = (-1, None)  # made for that login
        parts = urllib.parse.urlsplit(config.url)
        self.host = parts.hostname or ""
        self.port = parts.port or 443
        self._path = parts.path if parts.path not in ("", "/") else "/sdk"
        self._connection: Any = None  # the newest, and so the one that the thread waits at
        self._interrupted = False

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The verifying context for every connection. Raises UnusableAuthority."""
        return tls.context(self.config)

    @cached_property
    def _stub(self) -> Any:
        stub = SoapStubAdapter(
            host=self.host,
            port=self.port,
            path=self._path,
            version=API_VERSION,
            sslContext=self.tls,
            httpConnectionTimeout=self.config.timeout_s,
            connectionPoolTimeout=IDLE_S,
        )
        connection = stub.scheme

        def remembered(**arguments: Any) -> Any:
            self._connection = connection(**arguments)
            return self._connection

        stub.scheme = remembered
        return stub

    @cached_property
    def content(self) -> Any:
        """The ServiceContent; logs in when it is first asked for."""
        content = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()
        self._login(content)
        return content

    @property
    def waiter(self) -> Any:
        """A property collector of this login's own, to wait for updates with: those who share one take them from each
        other (pyvmomi #868).
        """
        shared = self.content.propertyCollector
        if self._waiter[0] != self.logins:
            self._waiter = self.logins, shared.CreatePropertyCollector()
        return self._waiter[1]

    @property
    def is_vcenter(self) -> bool:
        return bool(self.content.about.apiType == "VirtualCenter")

    def ref(self, kind: Any, moid: str) -> Any:
        """The managed object with that id, on this session."""
        return kind(moid, self._stub)

    def call(self, method: Callable[[], T], *, repeatable: bool = False) -> T:
        """Call; if the session has expired, log in anew and call again.

        `repeatable` calls are made again, too, if the connection was lost before an answer: they change nothing.
        """
        try:
            return method()
        except vim.fault.NotAuthenticated:
            self.renew()
        except DROPPED:
            if not repeatable:
                raise
        return method()

    def renew(self) -> None:
        """Log in anew; the objects we hold stay valid, the server's per-session ones are gone."""
        log.info("logging in to %s again", self.config.name)
        # The old session may be alive (/folder answers 401 at times): a login on it is InvalidLogin, and left alone it
        # counts against the server's limit until it expires.
        with suppress(vim.fault.NotAuthenticated):
            self.content.sessionManager.Logout()
        self._stub.cookie = ""
        self._login(self.content)

    def _login(self, content: Any) -> None:
        content.sessionManager.Login(self.config.user, self.config.password, "en")
        self.logins += 1

    @property
    def cookie(self) -> str:
        """The session's cookie, for /folder."""
        self.content  # noqa: B018  (logs in)
        return str(self._stub.cookie).split(";", 1)[0]

    def interrupt(self) -> None:
        """Break the connection: what waits for an answer now raises. Any thread, and however silent the server is."""
        self._interrupted = True
        waiting = getattr(self._connection, "sock", None)
        if waiting is not None:
            with suppress(OSError):  # it is just being opened, or closed
                socket.socket.shutdown(waiting, socket.SHUT_RDWR)

    def close(self) -> None:
        """Log out. Any thread. Raises what pyVmomi raises."""
        if self.logins == 0:
            return
        self.logins = 0
        if self._interrupted:
            self._stub.DropConnections()
        try:
            with suppress(vim.fault.NotAuthenticated):
                self.content.sessionManager.Logout()
        finally:
            self._stub.DropConnections()
