"""Where the broker is, who we are there, and how we know that it is the right one."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote, urlsplit

HEARTBEAT_S = 30
_PORTS = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class BrokerParameters:
    """One user's way to a broker. With `tls`, chain and host name are always verified, on loopback too."""

    host: str
    port: int
    virtual_host: str
    user: str
    password: str = field(repr=False)
    tls: bool
    ca_file: Path | None = None
    heartbeat_s: int = HEARTBEAT_S

    @classmethod
    def from_url(cls, url: str, password: str, ca_file: Path | None = None) -> BrokerParameters:
        """From `amqp://user@host:port/vhost` or `amqps://...`; no or an empty path is the virtual host `/`.

        `ca_file` (PEM) replaces the system's authorities. ValueError says what is wrong with the URL, in one sentence
        and without a password that may stand in it.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError("the broker's URL has no valid port: write amqps://user@host:5671/") from error
        if parts.scheme not in _PORTS or not parts.hostname or not parts.username:
            raise ValueError(
                "the broker's URL must be like amqp://user@127.0.0.1:5672/ or amqps://user@host:5671/vhost"
            )
        if parts.password is not None:
            raise ValueError("the broker's URL holds a password: keep it in a file of its own")
        if parts.query or parts.fragment:
            raise ValueError("the broker's URL ends with options, which are not understood: end it with the host")
        tls = parts.scheme == "amqps"
        if not tls and not _is_loopback(parts.hostname):
            raise ValueError(
                f"amqp://{parts.hostname} would send the password in the clear: "
                f"use amqps://, or a broker on 127.0.0.1, ::1 or localhost"
            )
        return cls(
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            virtual_host=unquote(parts.path[1:]) or "/",
            user=unquote(parts.username),
            password=password,
            tls=tls,
            ca_file=ca_file,
        )

    @property
    def address(self) -> str:
        """`amqps://host:5671`, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'amqps' if self.tls else 'amqp'}://{host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext | None:
        """A verifying context, new for each connection so that a renewed ca_file is seen. OSError if unreadable."""
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
