"""Servers as child processes: readiness from what they print, an end that nothing survives, and process ids on record.

A child dies with the process that started it, whatever ended that one (PR_SET_PDEATHSIG by setpriv(1)).
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.vsphere import TestbedError

_STOP_TIMEOUT_S = 10.0
_KILL_TIMEOUT_S = 5.0

# PR_SET_PDEATHSIG means the death of the *thread* that forked. So one thread forks them all: it lives until the end of
# the interpreter, while a thread that starts a server beside others ends soon.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="testbed-spawner")


class Child:
    """A running server in a session of its own; what it prints goes to `log`."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        ready: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`ready` is a regular expression for the line that says that it serves; see `wait_until_ready`."""
        self.name = Path(command[0]).name
        self.log = log
        self._ready = re.compile(ready.encode())
        self._seen = threading.Event()
        self._is_ready = False
        self._printed = threading.Condition()
        self._lines: list[bytes] = []
        self._process = _spawner.submit(_spawn, command, environment, log.parent).result()
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, name=f"log of {self.name}", daemon=True)
        self._reader.start()

    def wait_until_ready(self, timeout_s: float) -> None:
        """Until it has printed the line that `ready` matches. TestbedError, and its end, if it does not."""
        if self._seen.wait(timeout_s) and self._is_ready:
            return
        ended = self._seen.is_set()
        self.kill()
        what = "ended at once" if ended else f"was not ready within {timeout_s:g} s"
        raise TestbedError(f"{self.name} {what}, its log {self.log} ends with:\n{_tail(self.log)}")

    def wait_for(self, pattern: str, timeout_s: float = 20) -> None:
        """Until it has printed a line that matches. TestbedError if it does not."""
        wanted = re.compile(pattern.encode())
        with self._printed:
            if not self._printed.wait_for(lambda: any(map(wanted.search, self._lines)), timeout_s):
                raise TestbedError(f"{self.name} did not print {pattern!r} within {timeout_s:g} s, see {self.log}")

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """SIGTERM, and SIGKILL if that is not heard. A second time does nothing."""
        if self.is_alive():
            self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._reap()

    def pause(self) -> None:
        """SIGSTOP: its connections stay open, nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def _reap(self) -> None:
        self._process.wait(_KILL_TIMEOUT_S)
        self._reader.join(_KILL_TIMEOUT_S)

    def _read(self) -> None:
        output = self._process.stdout
        assert output is not None
        with output, self.log.open("ab") as log:
            for line in output:
                log.write(line)
                log.flush()
                with self._printed:
                    self._lines.append(line)
                    self._printed.notify_all()
                if not self._is_ready and self._ready.search(line):
                    self._is_ready = True
                    self._seen.set()
        self._seen.set()


def _spawn(
    command: Sequence[str | Path], environment: Mapping[str, str] | None, directory: Path
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,  # a broker that crashes dumps its core where it runs
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise TestbedError(f"{error.filename} is not installed: run scripts/bootstrap") from error


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    text: str = "",
    timeout_s: float = 60,
) -> str:
    """The output of a command that ends by itself; it reads `text`. TestbedError if it fails."""
    try:
        done = subprocess.run(
            list(map(str, command)),
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise TestbedError(f"{error.filename} is not installed: run scripts/bootstrap") from error
    if done.returncode:
        raise TestbedError(f"{' '.join(map(str, command))} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""


# --- processes of another starter ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recorded:
    """A process on record. `started` is in clock ticks since boot: a reused id has another one."""

    name: str
    pid: int
    started: int

    @classmethod
    def of(cls, name: str, pid: int) -> Recorded:
        """The process that has this id now."""
        return cls(name, pid, _start_time(pid) or 0)

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return _start_time(self.pid) == self.started

    def wait(self, timeout_s: float) -> None:
        """Until it is gone. TestbedError if it stays."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.is_alive() and not select.select([handle], [], [], timeout_s)[0]:
                raise TestbedError(f"{self.name}, process {self.pid}, is still there after {timeout_s:g} s")
        finally:
            os.close(handle)

    def end(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """SIGTERM, then SIGKILL; never to another process that got the id meanwhile."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # From here on the handle cannot mean another process.
            for order, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, _KILL_TIMEOUT_S)):
                if not self.is_alive():
                    return
                signal.pidfd_send_signal(handle, order)
                select.select([handle], [], [], patience_s)
        except ProcessLookupError:
            return
        finally:
            os.close(handle)


def _start_time(pid: int) -> int | None:
    """None if there is no such process, or only its zombie."""
    try:
        # The command's name is in parentheses and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
