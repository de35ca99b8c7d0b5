from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import SlotRules
from esxprov.slots import names
from esxprov.slots.names import Known, numbered, wrong_hostname, wrong_pattern

RULES = SlotRules("vm###.vcl.example.org", 0x005056010000)


def test_a_slot_has_its_number_in_its_name_and_two_addresses_of_its_own() -> None:
    slot = numbered(RULES, 7)
    assert (slot.hostname, slot.private_mac, slot.public_mac) == (
        "vm007.vcl.example.org",
        "00:50:56:01:00:0c",
        "00:50:56:01:00:0d",
    )


@pytest.mark.parametrize(
    ("generated", "macs"),
    [
        ((True, False), (None, "00:50:56:01:00:01")),
        ((False, True), ("00:50:56:01:00:00", None)),
        ((), ("00:50:56:01:00:00", "00:50:56:01:00:01")),
    ],
)
def test_a_mac_that_the_hypervisor_makes_is_left_to_it(
    generated: tuple[bool, ...], macs: tuple[str | None, str | None]
) -> None:
    slot = numbered(RULES, 1, generated)
    assert (slot.private_mac, slot.public_mac) == macs


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_no_two_slots_share_a_name_or_an_address(one: int, other: int) -> None:
    rules = SlotRules("vm#####.vcl.example.org", names.FIRST_MAC)
    first, second = numbered(rules, one), numbered(rules, other)
    macs = {first.private_mac, first.public_mac, second.private_mac, second.public_mac}
    assert len(macs) == (2 if one == other else 4)
    assert (first.hostname == second.hostname) == (one == other)
    assert (Known([first.hostname]).clash(second.hostname) is None) == (one != other)


@pytest.mark.parametrize(
    ("pattern", "most", "sentence"),
    [
        ("vm.example.org", 9, "expected one run of #"),
        ("vm#-#.example.org", 9, "expected one run of #"),
        ("vm.v#.example.org", 9, "expected one run of #"),
        ("vm##.example.org", 100, "## has no room for number 100: write ###, or lower most"),
        ("vm###", 9, "has no domain"),
        ("a-very-long-name###.vcl.example.org.", 9, "'' is no part of a host name"),
        ("a-very-long-name-###.vcl.example.org1", 9, "has 37 characters, and VCL's computer.hostname holds 36"),
        ("vm_###.example.org", 9, "'vm_009' is no part of a host name"),
        ("-vm###.example.org", 9, "'-vm009' is no part of a host name"),
        ("###.example.org", 9, "'009' is all digits"),
        ("m#.vm1.example.org", 9, "'vm1' ends like a slot's name"),
    ],
)
def test_a_pattern_that_gives_no_good_names_is_told_so(pattern: str, most: int, sentence: str) -> None:
    wrong = wrong_pattern(pattern, most)
    assert wrong is not None
    assert sentence in wrong


@pytest.mark.parametrize("pattern", ["vm###.vcl.example.org", "a#.b", "vm-###-x.vm.example.org", "v###.example12.org"])
def test_a_pattern_that_gives_good_names_is_taken(pattern: str) -> None:
    assert wrong_pattern(pattern, 9) is None


def test_a_name_of_36_characters_is_the_longest() -> None:
    assert wrong_hostname("a" * 32 + ".org") is None
    assert wrong_hostname("a" * 33 + ".org") is not None


@pytest.mark.parametrize(
    ("there", "name", "is_clash"),
    [
        ("lab-vm1.example.org", "vm1.example.org", True),  # vcld would find both by vm1
        ("vm1.example.org", "lab-vm1.example.org", True),
        ("VM1.example.org", "vm1.example.org", True),
        ("vm1", "vm1.example.org", True),
        ("mn.vm1.org", "vm1.example.org", True),
        ("vm10.example.org", "vm1.example.org", False),
        ("vm1x.example.org", "vm1.example.org", False),
        ("mn1.example.org", "vm1.example.org", False),
        ("", "vm1.example.org", False),
    ],
)
def test_a_name_clashes_if_vcld_would_take_it_for_another(there: str, name: str, is_clash: bool) -> None:
    assert Known([there]).clash(name) == (there if is_clash else None)


LABEL = st.text("ab1", min_size=1, max_size=4)
HOSTNAME = st.lists(LABEL, min_size=1, max_size=3).map(".".join)


@given(HOSTNAME, HOSTNAME)
def test_a_clash_is_what_vclds_regular_expression_finds_either_way(one: str, other: str) -> None:
    def finds(name: str, hostname: str) -> bool:
        return re.search(re.escape(name.partition(".")[0]) + r"(\.|$)", hostname) is not None

    assert (Known([one]).clash(other) is not None) == (finds(one, other) or finds(other, one))
