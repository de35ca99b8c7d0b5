"""What is looked at: the configuration, and what of it several checks ask for."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from esxprov.config import Config
from esxprov.database import Database, VclInventory
from esxprov.errors import DependencyUnavailable
from esxprov.model import Pool, Profile


@dataclass(slots=True)
class Patient:
    """May be shared by threads. What VCL says of a profile is asked once."""

    config: Config
    database: Database
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _profiles: dict[str, Profile | None] = field(default_factory=dict)

    def profile(self, pool: Pool) -> Profile | None:
        """VCL's profile of a pool; None if there is none, or the database does not answer: others say so."""
        with self._lock:
            if pool.profile not in self._profiles:
                try:
                    self._profiles[pool.profile] = VclInventory(self.database).profile(pool.profile)
                except DependencyUnavailable:
                    return None
            return self._profiles[pool.profile]
