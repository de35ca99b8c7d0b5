"""The shim's spool, where an event lies from before it is sent until its reply."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path

from esxprov.doctor.finding import Finding, ok, warn, wrong
from esxprov.doctor.patient import Patient

CHECKS = ("spool",)

_OLD_S = 24 * 3600


def look(patient: Patient) -> Iterator[Finding]:
    """The shim makes the directory when it first needs it, so a missing one is well."""
    spool = patient.config.spool
    try:
        found = spool.stat()
        names = list(spool.iterdir()) if stat.S_ISDIR(found.st_mode) else None
    except FileNotFoundError:
        yield ok("spool", f"{spool} is not there yet; the shim makes it")
        return
    except PermissionError:
        yield warn("spool", f"{spool} is closed to this user", "sudo esxprov doctor")
        return
    if names is None:
        yield wrong("spool", f"{spool} is no directory", "correct spool in [vcld], or remove that file")
    elif found.st_mode & 0o022:
        yield wrong("spool", f"others may write to {spool}, so the shim does not use it", f"chmod 700 {spool}")
    elif old := [name for name in names if _age_s(name) > _OLD_S]:
        text = f"{len(old)} event(s) in {spool} are older than a day: their reservation has ended without the reply"
        yield warn("spool", text, f"find {spool} -type f -mtime +0 -delete")
    else:
        yield ok("spool", f"{spool} holds {len(names)} event(s) under way")


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # its reply has just come
