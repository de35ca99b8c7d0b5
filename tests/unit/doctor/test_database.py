"""The rights that are tried are those that the program's own SQL needs."""

from __future__ import annotations

import re
from pathlib import Path

from esxprov.doctor.database import READ, WRITTEN

ROOT = Path(__file__).parents[3]
VCL = set(re.findall(r"CREATE TABLE `?(\w+)", (ROOT / "tests/testbed/schema/vcl.sql").read_text()))


def named(words: str) -> set[str]:
    """VCL's tables that stand behind one of these words in our SQL."""
    text = "".join(path.read_text() for path in (ROOT / "esxprov").rglob("*.py"))
    return set(re.findall(rf"\b(?:{words}) `?(\w+)", text)) & VCL


def test_every_table_of_vcl_that_is_read_is_tried() -> None:
    assert named("FROM|JOIN") == set(READ)


def test_every_table_of_vcl_that_is_written_is_tried() -> None:
    assert named("INTO|UPDATE|DELETE FROM") == set(WRITTEN)
