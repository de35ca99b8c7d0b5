"""What database, broker and LAN have in common: beginning, ends of several kinds, and beginning again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.testbed.processes import Child
from tests.testbed.scratch import Scratch


class Server(ABC):
    """A private server. As a context manager it is started, and in the end removed."""

    name: str

    def __init__(self, directory: Path) -> None:
        """`directory` gets its log and password files; its data are in memory."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.log = directory / f"{self.name}.log"
        self.scratch = Scratch(directory)
        self._child: Child | None = None

    def begin(self) -> None:
        """Start without waiting, so that several can start side by side; `finish` waits. TestbedError if it cannot."""
        self._prepare()
        self._child = self._spawn()

    def finish(self) -> None:
        """Wait until it serves, and put into it what the tests expect. TestbedError if it does not serve."""
        self._wait()

    def restart(self) -> None:
        """Stop it, if it runs, and start it again where it was, on its old data; returns when it serves."""
        self.stop()
        self._child = self._spawn()
        self._wait()

    def stop(self) -> None:
        """End it in order; its data stay. A second time does nothing."""
        if self._child is not None:
            self._child.stop()

    def kill(self) -> None:
        """End it like a power cut; its data stay as they are."""
        if self._child is not None:
            self._child.kill()

    def remove(self) -> None:
        """End it for good, with its data."""
        self.kill()
        self.scratch.remove()

    @property
    def child(self) -> Child:
        """Its process, to pause and resume it."""
        assert self._child is not None, f"{self.name} was not begun"
        return self._child

    @property
    def processes(self) -> dict[str, int]:
        """Name -> process id."""
        return {self.name: self.child.pid}

    @abstractmethod
    def _prepare(self) -> None:
        """What is done once, before the first start."""

    @abstractmethod
    def _spawn(self) -> Child:
        """Start the process."""

    @abstractmethod
    def _wait(self) -> None:
        """Wait until it serves."""

    def __enter__(self) -> Self:
        try:
            self.begin()
            self.finish()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
