"""A private RabbitMQ: plain and TLS listeners on loopback, with the users and permissions of our design."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import socket
from pathlib import Path

from bridge.users import Permissions, permissions
from tests.testbed.ports import free_ports
from tests.testbed.processes import Child, run
from tests.testbed.server import Server
from tests.testbed.vsphere import TestbedError

# Not /usr/sbin: that is Debian's wrapper, which becomes user rabbitmq with the system's own directories.
_PROGRAMS = Path("/usr/lib/rabbitmq/bin")
_START_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 5.0


class RabbitMq(Server):
    """Plain on `port`, and with TLS on `tls_port` if it was given a certificate; `ca` is the authority that signed it.

    Users: `vcld`, `esxprov`, `esxprov-cli`, `esxprov-leases` with their permissions for the management node, and
    `onlooker`, who may do everything.
    """

    name = "rabbitmq"
    host = "127.0.0.1"

    def __init__(self, directory: Path, *, tls: tuple[Path, Path, Path] | None = None, node: str = "mn1") -> None:
        """`tls`: the authority's certificate, the server's, and its key (PEM files)."""
        super().__init__(directory)
        self._tls = tls
        self.port, self.tls_port, self._distribution_port, self._epmd_port = free_ports(4)
        self._users = {**permissions(node), "onlooker": Permissions(".*", ".*", ".*")}
        self.passwords = {user: secrets.token_hex(12) for user in self._users}
        self._environment = self._make_environment(self.scratch.path)
        self._epmd: Child | None = None

    @property
    def processes(self) -> dict[str, int]:
        assert self._epmd is not None, "rabbitmq was not begun"
        return {self.name: self.child.pid, "epmd": self._epmd.pid}

    @property
    def ca(self) -> Path:
        assert self._tls is not None, "this broker was given no certificate"
        return self._tls[0]

    def password(self, user: str) -> str:
        return self.passwords[user]

    def url(self, user: str, *, tls: bool = False) -> str:
        """Without the password, as it stands in esxprov.conf."""
        return f"amqps://{user}@{self.host}:{self.tls_port}/" if tls else f"amqp://{user}@{self.host}:{self.port}/"

    def ctl(self, *arguments: str) -> str:
        """rabbitmqctl's output; it takes about a second. TestbedError if it fails."""
        return run([_PROGRAMS / "rabbitmqctl", "--quiet", *arguments], self._environment)

    def remove(self) -> None:
        super().remove()
        if self._epmd is not None:
            self._epmd.kill()

    def _prepare(self) -> None:
        home = self.scratch.path
        (home / "definitions.json").write_text(json.dumps(_definitions(self._users, self.passwords)))
        (home / "enabled_plugins").write_text("[].\n")
        (home / "rabbitmq.conf").write_text(self._configuration(home))
        # Erlang would start one that outlives the broker.
        command = ["epmd", "-d", "-d", "-port", str(self._epmd_port), "-address", self.host]
        self._epmd = Child(command, self.log.with_name("epmd.log"), ready="entering the main select")
        self._epmd.wait_until_ready(_START_TIMEOUT_S)

    def _spawn(self) -> Child:
        command = [_PROGRAMS / "rabbitmq-server"]
        return Child(command, self.log, ready="Server startup complete", environment=self._environment)

    def _wait(self) -> None:
        self.child.wait_until_ready(_START_TIMEOUT_S)
        self._expect_amqp()

    def _expect_amqp(self) -> None:
        """Connection.Start is the answer to the protocol header; its frame is a method frame, type 1."""
        with socket.create_connection((self.host, self.port), _ANSWER_TIMEOUT_S) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            if connection.recv(1) != b"\x01":
                raise TestbedError(f"Port {self.port} does not speak AMQP 0-9-1, see {self.log}.")

    def _configuration(self, home: Path) -> str:
        settings = {
            "listeners.tcp.local": f"{self.host}:{self.port}",
            "load_definitions": home / "definitions.json",
            "log.console": "true",
            "log.console.level": "info",
            "log.file": "false",
            "vm_memory_high_watermark.absolute": "256MB",
            "disk_free_limit.absolute": "10MB",
        }
        if self._tls is not None:
            authority, certificate, key = self._tls
            settings |= {
                "listeners.ssl.local": f"{self.host}:{self.tls_port}",
                "ssl_options.cacertfile": authority,
                "ssl_options.certfile": certificate,
                "ssl_options.keyfile": key,
                "ssl_options.verify": "verify_none",
            }
        return "".join(f"{key} = {value}\n" for key, value in settings.items())

    def _make_environment(self, home: Path) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(home),  # the Erlang cookie is written there
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": self.host,
            "RABBITMQ_NODENAME": f"bed{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home),
            "RABBITMQ_PID_FILE": str(home / "rabbitmq.pid"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": str(home / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +A 4 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
            # The start script then execs Erlang instead of waiting for it: one process, which hears our signals.
            "RUNNING_UNDER_SYSTEMD": "1",
        }


def _definitions(users: dict[str, Permissions], passwords: dict[str, str]) -> dict[str, object]:
    """What `rabbitmqctl export_definitions` would write; read at start, it takes no time."""
    return {
        "vhosts": [{"name": "/"}],
        "users": [
            {
                "name": user,
                "password_hash": _hashed(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": ["administrator"] if user == "onlooker" else [],
            }
            for user, password in passwords.items()
        ],
        "permissions": [
            {"user": user, "vhost": "/", "configure": may.configure, "write": may.write, "read": may.read}
            for user, may in users.items()
        ],
    }


def _hashed(password: str) -> str:
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
