"""What is looked at: the configuration, and what of it several checks ask for."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from esxprov.config import Config
from esxprov.database import Database, VclInventory
from esxprov.errors import DependencyUnavailable
from esxprov.model import Pool, Profile


@dataclass(slots=True)
class Patient:
    """May be shared by threads. `vcl` is the directory of VCL's management node code. What VCL says of a profile is
    asked once.
    """

    config: Config
    database: Database
    vcl: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _profiles: dict[str, Profile | None] = field(default_factory=dict)

    def profile(self, pool: Pool) -> Profile | None:
        """VCL's profile of a pool; None if there is none, or the database does not answer: others say so."""
        with self._lock:
            if pool.profile not in self._profiles:
                try:
                    self._profiles[pool.profile] = VclInventory(self.database).profile(pool.profile)
                except DependencyUnavailable:
                    self._profiles[pool.profile] = None  # and nobody else waits for it
            return self._profiles[pool.profile]
