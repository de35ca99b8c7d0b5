"""What every part of the benchmark is told, and how it has something done in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROUNDS = 5
"""Of what is repeated, the best one counts: the least disturbed by neighbours."""


@dataclass(frozen=True, slots=True)
class Options:
    """`records` of a busy site's file, `many` of a huge one; `directory` for what is written meanwhile."""

    records: int
    many: int
    guests: int
    rotations: int
    seed: int
    directory: Path


def in_child(module: str, *arguments: object) -> Any:
    """What `python -m module` prints as JSON: nobody else's memory and CPU time are in its own."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)
