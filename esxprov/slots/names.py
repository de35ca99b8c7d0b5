"""What slots are called, and their MAC addresses. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from esxprov.model import SlotRules

LONGEST = 36
"""Of computer.hostname."""

FIRST_MAC = 0x005056000000
LAST_MAC = 0x0050563FFFFF
"""What VMware leaves for addresses that are not made by a hypervisor; ESXi refuses others of 00:50:56."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class SlotName:
    """A slot by its number. A MAC is None where the profile has it made by the hypervisor."""

    number: int
    hostname: str
    private_mac: str | None
    public_mac: str | None


def numbered(rules: SlotRules, number: int, generated: tuple[bool, ...] = ()) -> SlotName:
    """The slot of that number, 1 for the first. `generated` says for which card the hypervisor makes the MAC."""
    private, public = (*generated, False, False)[:2]
    first = rules.first_mac + 2 * (number - 1)
    return SlotName(
        number, _filled(rules.names, number), None if private else mac(first), None if public else mac(first + 1)
    )


def mac(number: int) -> str:
    """`00:50:56:00:00:01` of a number."""
    digits = f"{number:012x}"
    return ":".join(digits[start : start + 2] for start in range(0, 12, 2))


def wrong_pattern(pattern: str, most: int) -> str | None:
    """Why names cannot be made of a pattern up to the number `most`, None if they can."""
    runs = re.findall(r"#+", pattern)
    if len(runs) != 1 or "#" not in pattern.partition(".")[0]:
        return "expected one run of # before the first dot, where the number goes, like vm###.vcl.example.org"
    if most >= 10 ** len(runs[0]):
        return f"{runs[0]} has no room for number {most}: write {'#' * len(str(most))}, or lower most"
    wrong = wrong_hostname(_filled(pattern, most))
    if wrong:
        return wrong
    first, *others = pattern.split(".")
    any_slot = re.compile("".join(r"\d" if letter == "#" else re.escape(letter) for letter in first) + r"\Z")
    for label in others:
        if any_slot.search(label):
            return f"{label!r} ends like a slot's name, so VCL would take every slot for that one: change either"
    return None


def wrong_hostname(name: str) -> str | None:
    """Why VCL cannot have a computer of that name, None if it can."""
    if len(name) > LONGEST:
        return f"{name!r} has {len(name)} characters, and VCL's computer.hostname holds {LONGEST}"
    labels = name.split(".")
    if len(labels) < 2:
        return f"{name!r} has no domain, expected a name like vm001.vcl.example.org"
    for label in labels:
        if not _LABEL.match(label):
            return f"{label!r} is no part of a host name: letters, digits and dashes, 1 to 63 of them"
    if labels[0].isdigit():
        return f"{labels[0]!r} is all digits, which VCL takes for a part of an address: put a letter before it"
    return None


class Known:
    """Host names that there are, to be asked whether another one can stand beside them.

    vcld looks for a computer by REGEXP `name(\\.|$)`, without an anchor in front (get_computer_info), and calls it by
    its short name: `vm1` finds `lab-vm1.example.org`, too. So no short name may be the end of a part of another name.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._by_short: dict[str, str] = {}
        self._by_end: dict[str, str] = {}
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        if not name:
            return
        self._by_short.setdefault(_short(name), name)
        for end in _ends(name):
            self._by_end.setdefault(end, name)

    def clash(self, name: str) -> str | None:
        """A name that VCL would take for this one, or the other way round."""
        found = self._by_end.get(_short(name))
        if found is not None:
            return found
        return next((self._by_short[end] for end in _ends(name) if end in self._by_short), None)


def _short(name: str) -> str:
    return name.lower().partition(".")[0]


def _ends(name: str) -> Iterator[str]:
    for label in name.lower().split("."):
        for start in range(len(label)):
            yield label[start:]


def _filled(pattern: str, number: int) -> str:
    return re.sub(r"#+", lambda run: str(number).zfill(len(run[0])), pattern)
