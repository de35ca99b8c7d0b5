"""How the tests of the Perl shim reach the test bed, run the shim, and cut the wire between the two."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ASK = Path(__file__).parents[1] / "perl" / "ask"


@dataclass(frozen=True, slots=True)
class ShimBroker:
    """Where the shim's broker is and how it logs in."""

    host: str
    port: int
    user: str
    password: str


@dataclass
class Shim:
    """The shim's configuration in `directory`, and its conversations as child processes."""

    directory: Path
    broker: ShimBroker
    node: str = "mn1"
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        secret = self.directory / "password"
        secret.write_text(self.broker.password)
        secret.chmod(0o600)
        self.conf = self.directory / "esxprov.conf"
        self.conf.write_text(f"[service]\nmanagement_node = {self.node}\n[vcld]\npassword_file = {secret}\n")
        self.spool = self.directory / "spool"
        self.use(f"amqp://{self.broker.user}@{self.broker.host}:{self.broker.port}/")

    def use(self, url: str, **settings: str) -> None:
        """Talk to this URL from now on; `settings` are further keys of [vcld]."""
        settings = {"url": url, "spool": str(self.spool), **settings}
        self.environment |= {f"ESXPROV_VCLD_{key.upper()}": value for key, value in settings.items()}

    def child_environment(self) -> dict[str, str]:
        """What a Perl process needs to find the configuration."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ESXPROV_")}
        return {**clean, "ESXPROV_CONF": str(self.conf), **self.environment}

    def ask(self, call: str, data: Mapping[str, Any], *options: str, timeout_s: float = 60) -> Talk:
        """One conversation, to its end."""
        return self.start(call, data, *options).finish(timeout_s)

    def start(self, call: str, data: Mapping[str, Any], *options: str) -> RunningTalk:
        """One conversation, in the background."""
        command = ["perl", str(ASK), "--node", self.node, *options, call]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, env=self.child_environment(), text=True, **pipes)  # type: ignore[call-overload]
        assert process.stdin is not None
        process.stdin.write(json.dumps(data))
        process.stdin.close()
        process.stdin = None
        return RunningTalk(process)

    def spooled(self) -> list[Path]:
        """The envelopes that were not answered yet."""
        return sorted(self.spool.glob("*")) if self.spool.is_dir() else []


@dataclass(frozen=True, slots=True)
class Talk:
    """What a conversation told vcld, in order."""

    lines: list[dict[str, Any]]
    stderr: str

    def of(self, kind: str) -> list[Any]:
        return [line[kind] for line in self.lines if kind in line]

    @property
    def reply(self) -> dict[str, Any]:
        assert "reply" in self.lines[-1], self.lines
        return dict(self.lines[-1]["reply"])

    @property
    def error(self) -> str:
        assert "error" in self.lines[-1], self.lines
        return str(self.lines[-1]["error"])


@dataclass
class RunningTalk:
    """A conversation under way."""

    process: subprocess.Popen[str]

    def finish(self, timeout_s: float = 60) -> Talk:
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return Talk([json.loads(line) for line in out.splitlines()], err)

    def kill(self) -> None:
        """SIGKILL, as vcld does it to a reload that is in the way."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


class Wire:
    """A TCP way to `target`; `cut()` ends all connections, `refuse` makes it close new ones at once, after saying
    `farewell`.
    """

    def __init__(self, target: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.refuse = False
        self.farewell = b""
        self.accepted = 0
        self._attempt = threading.Condition()
        threading.Thread(target=self._accept, name="wire", daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection, as a broker does that goes down."""
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def wait_for_attempts(self, count: int, timeout_s: float = 30) -> None:
        """Until there were `count` connections. Raises AssertionError if there are not."""
        with self._attempt:
            if not self._attempt.wait_for(lambda: self.accepted >= count, timeout_s):
                raise AssertionError(f"{self.accepted} of {count} connections within {timeout_s} s")

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._attempt:
                self.accepted += 1
                self._attempt.notify_all()
            if self.refuse:
                with contextlib.suppress(OSError):
                    client.sendall(self.farewell)
                client.close()
                continue
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        try:
            near = self._tls.wrap_socket(client, server_side=True) if self._tls else client
            far = socket.create_connection(self._target, 10)
        except OSError:
            client.close()
            return
        far.settimeout(None)
        self._pairs.append((near, far))
        _pump(near, far)


def _pump(near: socket.socket, far: socket.socket) -> None:
    """Pass octets both ways until one end closes: one thread, because a TLS socket must not be used by two."""
    other = {near: far, far: near}
    try:
        while True:
            waiting = isinstance(near, ssl.SSLSocket) and near.pending()
            for source in [near] if waiting else select.select([near, far], [], [])[0]:
                octets = source.recv(65536)
                if not octets:
                    return
                other[source].sendall(octets)
    except (OSError, ValueError):
        return  # cut by the test
    finally:
        near.close()
        far.close()
