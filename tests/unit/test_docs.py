"""What the documents say that a program can check."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

from bridge.users import permissions
from esxprov.model import Promised
from esxprov.web import Questions
from tests.unit.world import IMAGE, IMAGES, FakeClock, Site

DOCS = Path(__file__).parents[2] / "docs"
TESTS = Path(__file__).parents[1]


def test_the_brokers_permissions_in_the_installation_are_those_that_the_tests_run_with() -> None:
    lines = re.findall(r"set_permissions (\S+) '(\S*)' '(\S*)' '(\S*)'", (DOCS / "install.md").read_text())
    documented = {user: tuple(patterns) for user, *patterns in lines}
    tested = {user: (may.configure, may.write, may.read) for user, may in permissions("mn1").items()}
    assert documented == tested


def names_of_tests() -> set[str]:
    """Every test function there is."""
    return {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def names_of_flows() -> set[str]:
    """Every flow that the real vcld is driven through by default."""
    (listed,) = re.findall(r"^\[.*\] \|\| FLOWS=\(([^)]*)\)", (TESTS / "vcld" / "run").read_text(), re.MULTILINE)
    return set(listed.split())


def test_every_test_and_flow_that_a_comparison_with_vcl_s_modules_rests_on_exists() -> None:
    text = (DOCS / "vmware-module.md").read_text()
    tests = set(re.findall(r"`(test_\w+)`", text))
    flows = {name for named in re.findall(r"flows? ((?:`\w+`(?:, )?)+)", text) for name in re.findall(r"\w+", named)}
    assert (tests - names_of_tests(), flows - names_of_flows()) == (set(), set())
    assert tests
    assert flows


def test_every_claim_to_be_as_good_as_vcl_s_modules_names_what_holds_it() -> None:
    lines = (DOCS / "vmware-module.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    good = [row for row in rows if row[2].startswith(("better", "equal"))]
    assert len(good) > 30
    assert [row for row in good if "test_" not in row[3] and "flow" not in row[3]] == []


def shape(value: object) -> object:
    """The fields of JSON, whatever is in them."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value[:1]]
    return "..."


def test_the_answers_in_the_documentation_have_the_fields_of_the_real_ones() -> None:
    text = (DOCS / "capacity.md").read_text()
    found = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    documented = [json.loads(block) for block in found if block.startswith("    {")]
    site = Site()
    site.inventory.promises = [Promised(number, "", number, IMAGES[1], 1, None) for number in range(20)]
    questions = Questions(site.tools, FakeClock(site.world), None)

    def answer(path: str, query: str) -> Any:
        environment = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query}
        return json.loads(b"".join(questions(environment, lambda *_: None)))

    capacity = answer("/v1/capacity", "at=2030-01-01T00:00:00Z")
    place = answer("/v1/place", f"image={IMAGE}")
    for answered in (capacity["pools"][0]["images"][0], documented[0]["pools"][0]["images"][0]):
        answered["hosts"] = {}
    # What a success has none of is held together by the handlers' own tests.
    for name in ("refused", "help", "suggestions"):
        place[name] = documented[1][name]
    assert [shape(one) for one in documented] == [shape(capacity), shape(place)]
