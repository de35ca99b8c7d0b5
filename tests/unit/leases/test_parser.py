"""What one record or declaration says, in every form dhcpd's reader takes."""

from __future__ import annotations

import pytest

from esxprov.leases.index import Index
from esxprov.leases.parser import LONGEST_DECLARATION, Host, Parser, Record
from esxprov.model import Lease
from tests.unit.leases.written import (
    DUID,
    FAILOVER_STATE,
    HEADER,
    NESTED_HOST,
    NOW,
    ON_BLOCK,
    A,
    B,
    C,
    at,
    fixed_host,
    host,
    record,
)


def read(data: bytes) -> Index:
    index = Index()
    index.feed(data)
    index.settle()
    return index


def macs(data: bytes) -> dict[str, str]:
    """ip -> mac of what is a lease now."""
    return {lease.ip: lease.mac for lease in read(data).leases(NOW)}


def only(data: bytes) -> Record:
    (item,) = Parser().feed(data)
    assert isinstance(item, Record)
    return item


def test_a_fresh_lease_is_read_with_all_its_fields() -> None:
    written = record(
        "10.77.1.9",
        A,
        after_mac='uid "\\001\\000PV";\nset vendor-class-identifier = "MSFT 5.0";\nclient-hostname "vcl-vm-1";',
    )
    assert list(read(HEADER + DUID + written).leases(NOW)) == [
        Lease("10.77.1.9", A, "active", NOW - 60, NOW + 7140, NOW - 60, "vcl-vm-1", sequence=len(HEADER + DUID) + 1)
    ]


@pytest.mark.parametrize("state", ["free", "expired", "released", "abandoned", "backup", "reset"])
def test_a_record_that_is_not_active_ends_the_lease(state: str) -> None:
    assert macs(record("10.77.1.9", A) + record("10.77.1.9", A, state)) == {}


def test_an_abandoned_record_without_hardware_takes_the_address_from_its_mac() -> None:
    index = read(record("10.77.1.9", A) + record("10.77.1.9", None, "abandoned"))
    assert index.records(A) == []
    live = Index()
    live.feed(record("10.77.1.9", A))
    live.feed(record("10.77.1.9", None, "abandoned"))
    assert live.declined == {A: "10.77.1.9"}


def test_an_active_record_whose_end_has_passed_is_no_lease() -> None:
    assert macs(record("10.77.1.9", A, ends=NOW)) == {}
    assert macs(record("10.77.1.9", A, ends=NOW + 1)) == {"10.77.1.9": A}


def test_an_address_moved_to_another_mac_belongs_to_that_one_only() -> None:
    index = read(record("10.77.1.5", A) + record("10.77.1.5", B))
    assert index.records(A) == []
    assert [found.ip for found in index.records(B)] == ["10.77.1.5"]


def test_a_mac_whose_address_moved_away_keeps_its_other_one() -> None:
    written = record("10.77.1.6", A) + record("10.77.1.5", A) + record("10.77.1.5", B)
    assert macs(written) == {"10.77.1.6": A, "10.77.1.5": B}


def test_a_dump_of_an_offer_is_no_lease() -> None:
    assert macs(record("10.77.1.9", A, "free", after_mac='client-hostname "booting";')) == {}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2 2026/11/24 05:20:00", 1_795_497_600),
        ("0 2026/11/24 05:20:00", 1_795_497_600),
        ("2 2026/11/24 05:20:00 UTC", 1_795_497_600),
        ("2 2026/11/24 05:20:00 -3600", 1_795_494_000),
        ("epoch 1795497600", 1_795_497_600),
        ("epoch 1795497600; # Tue Nov 24 00:20:00 2026", 1_795_497_600),
    ],
)
def test_a_time_is_read_in_every_format(written: str, seconds: int) -> None:
    plain = record("10.77.1.9", A).decode().replace(f"starts {at(NOW - 60)};", f"starts {written.rstrip(';')};")
    assert only(plain.replace("2026;\n", "2026\n").encode()).starts == seconds


@pytest.mark.parametrize("ends", ["never", "5 2038/01/01 00:00:00", "1 2100/06/01 00:00:00"])
def test_an_end_that_is_never_or_beyond_the_clock_of_dhcpd_is_never(ends: str) -> None:
    found = only(record("10.77.1.9", A).replace(at(NOW + 7140).encode(), ends.encode()))
    assert found.ends is None
    assert found.is_lease_at(NOW + 10**9)


@pytest.mark.parametrize("ends", ["", "soon", "2 2026/13/24 05:20:00", "2 2026/11/24", "epoch x", "epoch " + "9" * 40])
def test_an_end_that_cannot_be_read_makes_no_lease(ends: str) -> None:
    assert only(record("10.77.1.9", A).replace(at(NOW + 7140).encode(), ends.encode())).ends == 0


@pytest.mark.parametrize(
    "line",
    [
        r'set vendor-class-identifier = "a\"b\\c}{;#";',
        'client-hostname "x}y;{#z";',
        'client-hostname "lease 10.77.9.9 {";',
        r'uid "\001}{;lease 10.77.9.9 {\\";',
        'set x = "}\\\\"; # "{',
        "set x = %5;",
        "set ddns = true;",
        "option agent.circuit-id 0:4:0:1:2:3;",
    ],
)
def test_a_hostile_string_stays_a_string(line: str) -> None:
    written = record("10.77.1.9", A, after_mac=line) + record("10.77.1.10", B)
    assert macs(written) == {"10.77.1.9": A, "10.77.1.10": B}


def test_the_escapes_of_a_host_name_are_undone() -> None:
    lease = only(record("10.77.1.9", A, after_mac=r'client-hostname "a\"b\\c\303\251\9";')).lease()
    assert lease.hostname == 'a"b\\cé9'


def test_macs_of_a_billing_class_and_of_a_relay_are_not_the_clients() -> None:
    written = record(
        "10.77.1.9",
        A,
        before_mac='billing subclass "limited" 00:50:56:00:ff:01;',
        after_mac='option agent.remote-id "00:11:22:33:44:55";\noption agent.circuit-id 00:50:56:00:ff:02;',
    )
    assert macs(written) == {"10.77.1.9": A}
    without = record("10.77.1.9", None, before_mac='billing subclass "limited" 00:50:56:00:ff:01;')
    assert macs(without) == {}


def test_a_reserved_or_bootp_record_is_an_active_lease() -> None:
    written = record("10.77.1.9", A, ends=None, before_mac="reserved;\ndynamic-bootp;")
    assert macs(written) == {"10.77.1.9": A}
    assert macs(record("10.77.1.9", A, "bootp")) == {"10.77.1.9": A}


def failover(written: bytes, *, without_cltt: bool = True) -> bytes:
    cltt = f"  cltt {at(NOW - 60)};\n"
    stamps = f"  tstp {at(NOW)};\n  tsfp {at(NOW)};\n  atsfp {at(NOW)};\n"
    return written.replace(cltt.encode(), (stamps + ("" if without_cltt else cltt)).encode())


def test_a_failover_peers_copy_without_cltt_is_a_lease_judged_by_its_times() -> None:
    found = only(failover(record("10.77.1.9", A)))
    assert (found.cltt, found.last_seen, found.in_order) == (None, NOW - 60, False)
    assert found.is_lease_at(NOW)


def test_a_lease_that_failover_peers_write_three_times_is_one_and_ends_when_the_last_says_so() -> None:
    """First as dhcpd promises it, then as its peer has heard of it; `expired` is what it will be, not what it is."""
    own = record("10.77.1.9", A).replace(b"next binding state free", b"next binding state expired")
    index = read(own + failover(own) + failover(own, without_cltt=False))
    assert [(found.ip, found.cltt) for found in index.records(A)] == [("10.77.1.9", NOW - 60)]
    assert [lease.ip for lease in index.leases(NOW)] == ["10.77.1.9"]
    index.feed(failover(record("10.77.1.9", A, "expired")))
    assert list(index.leases(NOW)) == []


def test_failover_states_are_walked_through() -> None:
    written = FAILOVER_STATE + record("10.77.1.9", A) + FAILOVER_STATE + failover(record("10.77.1.8", B, "backup"))
    assert macs(written) == {"10.77.1.9": A}


def test_a_record_of_an_old_daemon_without_a_state_is_a_lease_until_its_end() -> None:
    old = (
        f"lease 10.77.1.9 {{\n\tstarts {at(NOW - 60)};\n\tends {at(NOW + 60)};\n\thardware ethernet {A};\n"
        f'\tclient-hostname "w";\n}}\n'.encode()
    )
    assert macs(old) == {"10.77.1.9": A}
    assert macs(old.replace(b"\tclient-hostname", b"\tabandoned;\n\tclient-hostname")) == {}


def test_crlf_line_ends_are_taken() -> None:
    assert macs((record("10.77.1.9", A) + record("10.77.1.10", B)).replace(b"\n", b"\r\n")) == {
        "10.77.1.9": A,
        "10.77.1.10": B,
    }


def test_the_last_record_needs_no_final_newline() -> None:
    assert macs(record("10.77.1.9", A).rstrip()) == {"10.77.1.9": A}


def test_a_record_on_one_line_in_upper_case_and_any_order_is_taken() -> None:
    written = f"LEASE 10.77.1.9{{HARDWARE Ethernet {A.upper()};Binding State Active;ends never;}}".encode()
    assert macs(written + b" " + record("10.77.1.10", B)) == {"10.77.1.9": A, "10.77.1.10": B}


@pytest.mark.parametrize("mac", ["0:50:56:0:1:a", "00:50:56:00:01:0A"])
def test_a_short_or_upper_case_mac_is_normalised(mac: str) -> None:
    assert macs(record("10.77.1.9", mac)) == {"10.77.1.9": A}


@pytest.mark.parametrize("hardware", [f"token-ring {A}", f"infiniband {A}:00:00", "ethernet 00:50:56", "ethernet"])
def test_hardware_that_is_no_ethernet_address_is_no_mac(hardware: str) -> None:
    written = record("10.77.1.9", A).replace(f"ethernet {A}".encode(), hardware.encode())
    assert only(written).mac is None


def test_an_address_that_is_none_is_no_record() -> None:
    assert Parser().feed(record("999.1.1.1", A) + record("10.77.1.9", B))[0].mac == B


def test_nested_blocks_of_a_lease_are_left_out() -> None:
    written = record("10.77.1.9", A, after_mac=ON_BLOCK.replace("log", f"hardware ethernet {B}; log"))
    assert macs(written + record("10.77.1.10", C)) == {"10.77.1.9": A, "10.77.1.10": C}


def test_dhcpv6_content_is_ignored() -> None:
    v6 = (
        b'ia-na "\\001\\000\\000\\000" {\n  cltt 2 2026/11/24 05:41:50;\n  iaaddr 2001:db8::10 {\n'
        b"    binding state active;\n    preferred-life 300;\n    ends never;\n  }\n}\n\n"
    )
    assert Parser().feed(v6) == []
    assert macs(v6 + record("10.77.1.9", A) + v6) == {"10.77.1.9": A}


def test_comments_are_left_out_wherever_they_stand() -> None:
    commented = (
        record("10.77.1.9", A).replace(b"  binding", b"  # was } expired {\n  binding").replace(b"}\n", b"} #x\n")
    )
    assert macs(HEADER + commented + b"# } {\n" + record("10.77.1.10", B)) == {"10.77.1.9": A, "10.77.1.10": B}


def test_a_commented_out_record_is_none_and_hides_nothing() -> None:
    dead = b"".join(b"#" + line for line in record("10.77.1.9", A).splitlines(keepends=True))
    written = dead + fixed_host("vcl-1", C, "10.77.2.1") + dead + record("10.77.1.10", B)
    assert macs(written) == {"10.77.1.10": B}
    assert read(written).fixed(C) is not None


def test_nul_blocks_of_a_crash_take_only_the_record_they_are_in() -> None:
    holed = record("10.77.1.9", A).replace(b"  binding state active;\n", b"\0" * 40)
    assert macs(b"\0" * 512 + record("10.77.1.8", C) + holed + record("10.77.1.10", B)) == {
        "10.77.1.8": C,
        "10.77.1.10": B,
    }


def test_a_line_of_64_kb_is_read() -> None:
    assert macs(record("10.77.1.9", A, after_mac=f'set x = "{"y{;" * 21845}";')) == {"10.77.1.9": A}


def test_junk_without_end_is_dropped_and_the_next_record_found() -> None:
    parser = Parser()
    parser.feed(b"host junk {\n" + b"x y\n" * LONGEST_DECLARATION)
    assert len(parser._carry) <= LONGEST_DECLARATION
    (item,) = parser.feed(record("10.77.1.9", A))
    assert item.mac == A


def test_a_host_declaration_is_read_through_its_nested_blocks() -> None:
    assert Parser().feed(NESTED_HOST) == [Host("vcl-9", C, "10.77.250.9")]


def test_a_deleted_host_gives_no_address_any_more() -> None:
    index = read(fixed_host("vcl-1", A, "10.77.2.1") + host("vcl-1", "dynamic;", "deleted;"))
    assert index.fixed(A) is None


def test_a_host_of_two_declarations_keeps_the_other_when_one_is_deleted() -> None:
    written = fixed_host("one", A, "10.77.2.1") + fixed_host("two", A, "10.77.2.2") + host("two", "deleted;")
    found = read(written).fixed(A)
    assert found is not None
    assert (found.ip, found.fixed, found.evidence, found.hostname) == ("10.77.2.1", True, "host-declaration", "one")


def test_hosts_of_dhcpd_conf_are_found_in_groups_and_subnets_and_on_one_line() -> None:
    conf = (
        b'option domain-name "x{";\nsubnet 10.77.0.0 netmask 255.255.0.0 {\n  range 10.77.1.0 10.77.1.99;\n'
        b"  host a { hardware ethernet " + A.encode() + b"; fixed-address 10.77.2.1, 10.78.2.1; }\n  group {\n"
        b"    # host dead {\n    host b {\n      fixed-address 10.77.2.2; # x\n      hardware ethernet "
        + B.encode()
        + b';\n    }\n  }\n}\nclass "vm" { lease limit 4; }\nhost c { hardware ethernet '
        + C.encode()
        + b'; fixed-address vm.example.org; }\ninclude "more.conf";\n'
    )
    parser = Parser()
    assert parser.feed(conf) == [Host("a", A, "10.77.2.1"), Host("b", B, "10.77.2.2"), Host("c", C, None)]
    assert parser.includes == ["more.conf"]
