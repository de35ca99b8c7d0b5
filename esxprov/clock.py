"""The real clock behind ports.Clock."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime


class SystemClock:
    """Wall clock, monotonic clock, and a wait that the end of the service cuts short."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> bool:
        return self._ended.wait(seconds)

    def end(self) -> None:
        """Wake every waiter for good."""
        self._ended.set()
