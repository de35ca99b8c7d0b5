"""dhcpd.conf as a tree of statements, and what in it loses leases. Pure.

Only as far as checking needs: expressions stay words, and what cannot be understood is left out, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(r'#[^\n]*|"(?:[^"\\\n]|\\.)*"|[{};]|[^\s{};"#]+')

DEFAULT_THRESHOLD = 25
"""Percent of a lease's time in which dhcpd gives it again and writes nothing, if dhcp-cache-threshold is not set."""


@dataclass(frozen=True, slots=True)
class Statement:
    """Words, and what stands in braces behind them; `body` is None for a statement that ends with a semicolon."""

    words: tuple[str, ...]
    body: tuple[Statement, ...] | None = None

    def is_(self, *words: str) -> bool:
        """Whether it begins with these words, in whatever case."""
        return tuple(word.lower() for word in self.words[: len(words)]) == words


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `cure` is the line to change, "" if all is well. `is_serious`: leases are lost, or
    VMs get none.
    """

    what: str
    result: str
    cure: str = ""
    is_serious: bool = False


def parse(text: str) -> tuple[Statement, ...]:
    """The statements of a configuration; what is torn at its end is left out."""
    stack: list[list[Statement]] = [[]]
    heads: list[tuple[str, ...]] = []
    words: list[str] = []
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token.startswith("#"):
            continue
        if token == ";":
            if words:
                stack[-1].append(Statement(tuple(words)))
            words = []
        elif token == "{":
            heads.append(tuple(words))
            stack.append([])
            words = []
        elif token == "}":
            if heads:
                body = tuple(stack.pop())
                stack[-1].append(Statement(heads.pop(), body))
            words = []
        else:
            words.append(token)
    return tuple(stack[0])


def includes(statements: Sequence[Statement]) -> list[str]:
    """The files that `include` statements name, at whatever depth."""
    return [each.words[1].strip('"') for each in _all(statements) if each.is_("include") and len(each.words) == 2]


def findings(statements: Sequence[Statement], *, ends_old: bool) -> list[Finding]:
    """What a configuration does to our finding leases. `ends_old`: old leases are ended by OMAPI before power-on."""
    subnets = list(_subnets(statements, ()))
    found = [finding for subnet, scopes in subnets for finding in _subnet(subnet, scopes, ends_old)]
    if not any(_gives_addresses(subnet) for subnet, _ in subnets):
        cure = "declare the VMs' private network: subnet 10.0.0.0 netmask 255.255.0.0 { range FIRST LAST; }"
        found.append(Finding("subnets", "none has a range: VMs get no address", cure, is_serious=True))
    fixed = [each for each in _all(statements) if each.is_("host") and _has(each, "fixed-address")]
    if fixed:
        found.append(
            Finding(
                "fixed addresses",
                f"{len(fixed)} host(s): dhcpd never writes a lease for them, so their address is taken from here",
            )
        )
    return found


def _subnet(subnet: Statement, scopes: Sequence[Sequence[Statement]], ends_old: bool) -> Iterator[Finding]:
    """`scopes` are the statements around it and its own, the innermost last."""
    name = f"subnet {subnet.words[1]}" if len(subnet.words) > 1 else "subnet"
    if not _gives_addresses(subnet):
        yield Finding(name, "it has no range, so no VM gets an address there")
        return
    percent = _threshold(scopes)
    if percent and not ends_old:
        yield Finding(
            name,
            f"a lease asked for again within {percent} % of its time is not written, so the VM is not seen",
            f"dhcp-cache-threshold 0; in {name}, or [leases] omapi",
            is_serious=True,
        )
    else:
        how = "old leases are ended by OMAPI" if percent else "dhcp-cache-threshold is 0"
        yield Finding(name, f"every lease is written ({how})")
    for scope in (*scopes, *(pool.body or () for pool in _pools(subnet))):
        for each in scope:
            words = [word.lower() for word in each.words]
            if words[-1:] == ["unknown-clients"] and words[:1] in (["deny"], ["ignore"]):
                yield Finding(
                    name,
                    f"'{' '.join(each.words)}': a VM without a host declaration gets no address",
                    "allow unknown-clients; or a host declaration for each VM",
                    is_serious=True,
                )


def _threshold(scopes: Sequence[Sequence[Statement]]) -> int:
    """The innermost that is set counts."""
    for scope in reversed(scopes):
        for each in scope:
            if each.is_("dhcp-cache-threshold") and len(each.words) == 2 and each.words[1].isdigit():
                return int(each.words[1])
    return DEFAULT_THRESHOLD


def _subnets(
    statements: Sequence[Statement], outer: Sequence[Sequence[Statement]]
) -> Iterator[tuple[Statement, tuple[Sequence[Statement], ...]]]:
    """Subnets with the scopes that they are in, at whatever depth."""
    scopes = (*outer, statements)
    for each in statements:
        if each.body is not None and each.is_("subnet"):
            yield each, (*scopes, each.body)
        elif each.body is not None and (each.is_("shared-network") or each.is_("group")):
            yield from _subnets(each.body, scopes)


def _pools(subnet: Statement) -> list[Statement]:
    return [each for each in subnet.body or () if each.is_("pool")]


def _gives_addresses(subnet: Statement) -> bool:
    return any(_has(each, "range") for each in (subnet, *_pools(subnet)))


def _has(block: Statement, keyword: str) -> bool:
    return any(each.is_(keyword) for each in block.body or ())


def _all(statements: Sequence[Statement]) -> Iterator[Statement]:
    for each in statements:
        yield each
        yield from _all(each.body or ())
