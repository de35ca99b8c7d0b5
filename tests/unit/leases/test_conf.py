"""What in dhcpd.conf loses leases, and which line to change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.leases import conf
from esxprov.leases.conf import Finding, Statement


def found(text: str, *, ends_old: bool = False) -> list[Finding]:
    return conf.findings(conf.parse(text), ends_old=ends_old)


def subnet(inside: str) -> str:
    return f"subnet 10.77.0.0 netmask 255.255.0.0 {{ {inside} }}"


RANGE = "range 10.77.1.0 10.77.16.255;"


def serious(text: str, *, ends_old: bool = False) -> list[str]:
    return [f"{one.what}: {one.result}" for one in found(text, ends_old=ends_old) if one.is_serious]


def test_the_default_threshold_loses_leases() -> None:
    (lost,) = serious(subnet(RANGE))
    assert "within 25 % of its time is not written" in lost
    assert any("dhcp-cache-threshold 0;" in one.cure for one in found(subnet(RANGE)))


@pytest.mark.parametrize(
    "text",
    [
        f"dhcp-cache-threshold 0; {subnet(RANGE)}",
        subnet(f"dhcp-cache-threshold 0; {RANGE}"),
        f"dhcp-cache-threshold 40; {subnet(f'DHCP-Cache-Threshold 0; {RANGE}')}",
        f"shared-network vms {{ dhcp-cache-threshold 0; {subnet(RANGE)} }}",
        f"group {{ dhcp-cache-threshold 0; {subnet(RANGE)} }}",
        subnet(f"dhcp-cache-threshold 0; pool {{ {RANGE} }}"),
    ],
)
def test_the_innermost_threshold_counts(text: str) -> None:
    assert serious(text) == []


def test_a_threshold_within_the_subnet_overrides_a_good_one_outside() -> None:
    assert "within 40 %" in serious(f"dhcp-cache-threshold 0; {subnet(f'dhcp-cache-threshold 40; {RANGE}')}")[0]


def test_with_omapi_old_leases_are_ended_and_no_threshold_matters() -> None:
    assert serious(subnet(RANGE), ends_old=True) == []


def test_a_subnet_without_a_range_is_told_and_no_fault_beside_one_that_has_one() -> None:
    other = "subnet 192.0.2.0 netmask 255.255.255.0 { option routers 192.0.2.1; }"
    text = f"dhcp-cache-threshold 0; {subnet(RANGE)} {other}"
    assert serious(text) == []
    assert "it has no range, so no VM gets an address there" in [one.result for one in found(text)]


@pytest.mark.parametrize("text", ["authoritative;", subnet("option routers 10.77.0.1;")])
def test_no_range_at_all_is_serious(text: str) -> None:
    assert serious(text) == ["subnets: none has a range: VMs get no address"]


@pytest.mark.parametrize("verb", ["deny", "ignore"])
@pytest.mark.parametrize("place", ["global", "subnet", "pool"])
def test_unknown_clients_that_get_nothing_are_told(verb: str, place: str) -> None:
    rule, threshold = f"{verb} unknown-clients;", "dhcp-cache-threshold 0;"
    text = {
        "global": f"{rule} {threshold} {subnet(RANGE)}",
        "subnet": subnet(f"{rule} {threshold} {RANGE}"),
        "pool": subnet(f"{threshold} pool {{ {rule} {RANGE} }}"),
    }[place]
    (lost,) = serious(text)
    assert f"'{verb} unknown-clients'" in lost


def test_fixed_hosts_are_counted_and_no_fault() -> None:
    hosts = 'host a { hardware ethernet 0:1:2:3:4:5; fixed-address 10.77.2.1; } host b { option host-name "x;}{"; }'
    text = f"dhcp-cache-threshold 0; {subnet(RANGE)} {hosts}"
    assert serious(text) == []
    assert any(one.result.startswith("1 host(s)") for one in found(text))


def test_comments_and_strings_hold_no_statements() -> None:
    text = '# subnet 1.2.3.4 {\noption x "}; deny unknown-clients;"; dhcp-cache-threshold 0;\n' + subnet(RANGE)
    assert serious(text) == []


def test_included_files_are_named_at_whatever_depth() -> None:
    assert conf.includes(conf.parse('include "a.conf"; group { include "b.conf"; }')) == ["a.conf", "b.conf"]


@given(st.text(alphabet='{};"#\\ab \n', max_size=60))
def test_any_text_is_taken(text: str) -> None:
    assert all(isinstance(one, Statement) for one in conf.parse(text))
    assert found(text)
