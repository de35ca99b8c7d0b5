"""What the documents say that a program can check."""

from __future__ import annotations

import re
from pathlib import Path

from tests.testbed.rabbitmq import permissions

DOCS = Path(__file__).parents[2] / "docs"


def test_the_brokers_permissions_in_the_installation_are_those_that_the_tests_run_with() -> None:
    lines = re.findall(r"set_permissions (\S+) '(\S*)' '(\S*)' '(\S*)'", (DOCS / "install.md").read_text())
    documented = {user: tuple(patterns) for user, *patterns in lines}
    tested = {user: (may.configure, may.write, may.read) for user, may in permissions("mn1").items()}
    assert documented == tested
