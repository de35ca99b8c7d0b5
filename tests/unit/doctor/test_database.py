"""The rights that are tried are those that the service's own SQL needs."""

from __future__ import annotations

import re
from pathlib import Path

from esxprov.doctor.database import READ, WRITTEN

ROOT = Path(__file__).parents[3]
VCL = set(re.findall(r"CREATE TABLE `?(\w+)", (ROOT / "tests/testbed/schema/vcl.sql").read_text()))


COMMANDS = {"install", "slots"}
"""What only commands of an admin do, which say themselves which right they lack."""


def named(words: str) -> set[str]:
    """VCL's tables that stand behind one of these words in the service's SQL."""
    ours = ROOT / "esxprov"
    files = [path for path in ours.rglob("*.py") if path.relative_to(ours).parts[0] not in COMMANDS]
    text = "".join(path.read_text() for path in files)
    return set(re.findall(rf"\b(?:{words}) `?(\w+)", text)) & VCL


def test_every_table_of_vcl_that_is_read_is_tried() -> None:
    assert named("FROM|JOIN") == set(READ)


def test_every_table_of_vcl_that_is_written_is_tried() -> None:
    assert named("INTO|UPDATE|DELETE FROM") == set(WRITTEN)
