from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from esxprov.errors import ConfigurationError
from esxprov.model import SlotRules
from esxprov.slots.plan import Found, HostRecord, Kind, Plan, Row, SlotRecord, Wanted, Words, plan_of, removal_of
from esxprov.slots.size import HostSize, Shape

RULES = SlotRules("vm###.vcl.test", 0x005056010000, most=9, pool_host="pool.vcl.test")
WORDS = Words(
    available=2,
    maintenance=10,
    vmhostinuse=20,
    esxprov=40,
    none=10,
    module=31,
    platform=1,
    schedule=1,
    owner=1,
    noimage=1,
    noimage_revision=1,
    computer_type=12,
    profile=7,
    generated_macs=(False, False),
    groups=(5, 9),
    host_groups=(1,),
)
WANTED = Wanted("main", RULES, 2, Shape(8192, 4), (HostSize("esx1", "esx1.vcl.test", 16384, 8),))
STATES = {2: "available", 5: "failed", 10: "maintenance", 20: "vmhostinuse"}


class World:
    """VCL's tables as a plan would leave them, to be changed by others."""

    def __init__(self) -> None:
        self.found = Found(())

    def do(self, wanted: Wanted = WANTED) -> Plan:
        """Make a plan, and the tables as if it had been done."""
        plan = plan_of(self.found, wanted, WORDS)
        rows = {row.id: row for row in self.found.rows}
        slots = {record.computer_id: record for record in self.found.slots}
        hosts = {record.computer_id: record for record in self.found.hosts}
        vmhosts, members = dict(self.found.vmhosts), set(self.found.members)
        home = 0
        for change in (plan.home, *plan.hosts, *plan.slots):
            number = change.row.id if change.row else max(rows, default=0) + 1
            values = {**(change.row.values if change.row else {}), **change.values}
            if change.what != "slot":
                vmhosts.setdefault((number, WORDS.profile), number + 1000)
                record = hosts.get(number)
                hosts[number] = HostRecord(
                    *("main", number, number + 1000, change.what == "pool", "", "", change.hostname, 0, 0),
                    record.computer_made if record else change.row is None,
                    vmhost_made=True,
                )
            home = number + 1000 if change.what == "pool" else home
            rows[number] = Row(
                id=number,
                hostname=values["hostname"],
                is_deleted=False,
                type=values["type"],
                state=STATES[values["stateid"]],
                vmhost_id=home if change.needs_home else change.row.vmhost_id if change.row else None,
                notes="",
                values=values,
            )
            members |= {(number, group) for group in change.groups}
            if change.kind is Kind.ADD and change.what == "slot":
                slots[number] = SlotRecord(number, "main", change.hostname)
        self.found = replace(
            self.found,
            rows=tuple(rows.values()),
            vmhosts=vmhosts,
            members=frozenset(members),
            slots=tuple(slots.values()),
            hosts=tuple(hosts.values()),
        )
        return plan

    def change(self, hostname: str, **values: Any) -> None:
        """Somebody else changes a row: fields of Row, or columns."""
        fields = {name: value for name, value in values.items() if name in Row.__dataclass_fields__}
        columns = {name: value for name, value in values.items() if name not in fields}
        self.found = replace(
            self.found,
            rows=tuple(
                replace(row, **fields, values={**row.values, **columns}) if row.hostname == hostname else row
                for row in self.found.rows
            ),
        )

    def row(self, number: int, hostname: str, **values: Any) -> None:
        """A row of somebody else."""
        macs = {"eth0macaddress": values.pop("mac", None), "eth1macaddress": None}
        row = Row(number, hostname, values.pop("is_deleted", False), "blade", "available", None, "", macs)
        self.found = replace(self.found, rows=(*self.found.rows, replace(row, **values)))


@pytest.fixture
def world() -> World:
    made = World()
    made.do()
    return made


def shown(changes: Any) -> list[tuple[str, str]]:
    return [(change.kind.value, change.hostname.partition(".")[0]) for change in changes]


def plan(world: World, wanted: Wanted = WANTED) -> Plan:
    return plan_of(world.found, wanted, WORDS)


def with_rules(**values: Any) -> Wanted:
    return replace(WANTED, rules=replace(RULES, **values))


def test_a_plan_that_was_done_leaves_nothing_to_do(world: World) -> None:
    assert {change.kind for change in plan(world).changes} == {Kind.KEEP}


def test_only_what_differs_is_changed(world: World) -> None:
    changes = plan(world, replace(WANTED, shape=Shape(4096, 4))).slots
    assert [dict(change.values) for change in changes] == [{"RAM": 4096}, {"RAM": 4096}]
    assert changes[0].detail == "RAM 8192 to 4096"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"is_busy": True}, "in use"),
        ({"holds": True}, "loaded"),
        ({"is_empty": False}, "loaded"),
        ({"state": "failed", "stateid": 5}, "failed"),
        ({"state": "reloading", "stateid": 6}, "reloading"),
        ({"state": "maintenance", "stateid": 10, "notes": "admin at work"}, "in maintenance"),
    ],
)
def test_a_slot_that_is_not_idle_is_left(world: World, values: dict[str, Any], why: str) -> None:
    world.change("vm001.vcl.test", **values)
    left, changed = plan(world, replace(WANTED, shape=Shape(4096, 4))).slots
    assert (left.kind, left.detail, left.values) == (Kind.KEEP, why, {})
    assert changed.kind is Kind.CHANGE


def test_a_slot_that_was_hidden_with_our_note_is_opened(world: World) -> None:
    world.change("vm001.vcl.test", state="maintenance", stateid=10, notes="ours")
    record = replace(world.found.slots[0], note="ours")
    world.found = replace(world.found, slots=(record, *world.found.slots[1:]))
    assert plan(world).slots[0].values == {"stateid": 2}


def test_a_group_that_is_missing_is_joined_also_by_a_slot_in_use(world: World) -> None:
    world.change("vm001.vcl.test", is_busy=True)
    slot = next(row for row in world.found.rows if row.hostname == "vm001.vcl.test")
    world.found = replace(world.found, members=world.found.members - {(slot.id, 9)})
    change = plan(world).slots[0]
    assert (change.kind, change.groups, change.values) == (Kind.CHANGE, (9,), {})


def test_too_many_slots_are_said_and_left_to_prune(world: World) -> None:
    less = plan(world, replace(WANTED, count=1))
    assert shown(less.slots) == [("keep", "vm001")]
    assert shown(less.surplus) == [("remove", "vm002")]
    assert any("prune" in note for note in less.notes)


@pytest.mark.parametrize(
    ("closed_s", "kind"), [(None, Kind.CLOSE), (59.0, Kind.KEEP), (60.0, Kind.REMOVE)], ids=["open", "just", "long"]
)
def test_a_slot_is_removed_only_when_it_was_closed_a_minute_ago(
    world: World, closed_s: float | None, kind: Kind
) -> None:
    closed = {} if closed_s is None else {"RAM": 0, "procnumber": 0, "procspeed": 0, "network": 0}
    world.change("vm002.vcl.test", **closed)
    one, two = world.found.slots
    records = [one, replace(two, closed_s=closed_s)]
    world.found = replace(world.found, slots=tuple(records))
    less = plan(world, replace(WANTED, count=1))
    assert [change.kind for change in removal_of(world.found, less, "main")] == [kind]


def test_a_slot_that_somebody_opened_again_is_closed_again(world: World) -> None:
    records = [replace(one, closed_s=600.0) for one in world.found.slots]
    world.found = replace(world.found, slots=tuple(records))
    assert [change.kind for change in removal_of(world.found, None, "main")] == [Kind.CLOSE, Kind.CLOSE]


def test_slots_of_an_earlier_pattern_go_before_new_ones_take_their_addresses(world: World) -> None:
    renamed = plan(world, with_rules(names="slot###.vcl.test"))
    assert (renamed.problem, shown(renamed.slots)) == (None, [("add", "slot003"), ("add", "slot004")])
    assert shown(renamed.surplus) == [("remove", "vm001"), ("remove", "vm002")]
    assert any("2 slots wait for names or MAC addresses" in note for note in renamed.notes)


def test_a_number_with_a_name_or_an_address_of_others_is_left_out() -> None:
    world = World()
    world.row(50, "lab-vm001.vcl.test")
    world.row(51, "mine.vcl.test", mac="00:50:56:01:00:03", is_deleted=True)
    made = world.do()
    assert shown(made.slots) == [("add", "vm003"), ("add", "vm004")]
    assert any("lab-vm001.vcl.test" in note for note in made.notes)


def test_a_deleted_row_of_others_keeps_its_name() -> None:
    world = World()
    world.row(50, "vm001.vcl.test", is_deleted=True)
    assert shown(world.do().slots) == [("add", "vm002"), ("add", "vm003")]


def test_no_name_at_all_is_a_problem_that_names_the_other_computer() -> None:
    world = World()
    for number in range(1, 10):
        world.row(50 + number, f"vm00{number}.other.test")
    problem = plan(world).problem
    assert problem is not None
    assert "cannot tell vm001.vcl.test from vm001.other.test" in problem


def test_a_slot_and_a_hypervisor_must_not_share_a_name() -> None:
    host = HostSize("esx1", "bladevm001", 16384, 8)
    assert shown(plan(World(), replace(WANTED, hosts=(host,))).slots) == [("add", "vm002"), ("add", "vm003")]


def test_ids_are_kept_for_the_hosts_first() -> None:
    made = plan_of(Found((), ids_left=3), WANTED, WORDS)
    assert shown(made.changes) == [("add", "pool"), ("add", "esx1"), ("add", "vm001")]
    assert any("65535" in note for note in made.notes)


def test_the_pools_host_has_more_ram_than_what_vcl_believes_to_be_on_it(world: World) -> None:
    world.change("vm001.vcl.test", is_empty=False, image_ram_mb=2048)
    assert plan(world).home.values == {"RAM": 2048 + 8192 + 1}


def test_the_pools_host_must_not_be_somebody_elses(world: World) -> None:
    world.row(50, "taken.vcl.test")
    with pytest.raises(ConfigurationError, match=r"computer taken\.vcl\.test \(id 50\), which is not ours"):
        plan(world, with_rules(pool_host="taken.vcl.test"))


def test_the_pools_host_is_renamed_with_its_setting(world: World) -> None:
    home = plan(world, with_rules(pool_host="other.vcl.test")).home
    assert (home.kind, home.values) == (Kind.CHANGE, {"hostname": "other.vcl.test"})


def test_a_hypervisor_is_known_by_the_first_part_of_its_name(world: World) -> None:
    changes = plan(world, replace(WANTED, hosts=(HostSize("esx1", "esx1", 16384, 8),))).hosts
    assert shown(changes) == [("keep", "esx1")]


def test_two_hypervisors_of_one_name_are_said(world: World) -> None:
    hosts = tuple(HostSize(name, "localhost.localdomain", 16384, 8) for name in ("a", "b"))
    made = plan(world, replace(WANTED, hosts=hosts))
    assert shown(made.hosts) == [("add", "localhost")]
    assert any("the hosts of a and b are both called localhost.localdomain" in note for note in made.notes)


def test_a_hypervisor_with_a_name_that_vcl_cannot_hold_gets_no_row(world: World) -> None:
    made = plan(world, replace(WANTED, hosts=(HostSize("a", "x" * 37, 16384, 8),)))
    assert made.hosts == ()
    assert any("gets no row in VCL, where a name has 36 characters" in note for note in made.notes)


def test_a_hypervisor_that_vcl_has_deleted_is_said(world: World) -> None:
    fresh = World()
    fresh.row(50, "esx1.vcl.test", is_deleted=True)
    made = plan(fresh)
    assert made.hosts == ()
    assert any("undelete it" in note for note in made.notes)


def test_more_ram_of_a_hypervisor_is_written_to_the_row_that_we_made_and_to_no_other(world: World) -> None:
    larger = replace(WANTED, hosts=(HostSize("esx1", "esx1.vcl.test", 32768, 8),))
    assert plan(world, larger).hosts[0].values == {"RAM": 32768}
    theirs = tuple(replace(record, computer_made=False) for record in world.found.hosts if not record.is_pool)
    pool = tuple(record for record in world.found.hosts if record.is_pool)
    world.found = replace(world.found, hosts=(*pool, *theirs))
    assert plan(world, larger).hosts[0].kind is Kind.KEEP


def test_a_slot_keeps_its_mac_addresses_and_new_ones_take_none_of_them(world: World) -> None:
    shifted = plan(world, replace(with_rules(first_mac=RULES.first_mac + 2), count=3))
    assert shown(shifted.slots) == [("keep", "vm001"), ("keep", "vm002"), ("add", "vm003")]
    macs = plan(world, replace(with_rules(first_mac=RULES.first_mac - 2), count=3))
    assert shown(macs.slots) == [("keep", "vm001"), ("keep", "vm002"), ("add", "vm004")]


def test_a_removed_slot_does_not_come_back_while_another_has_its_address(world: World) -> None:
    world.change("vm001.vcl.test", is_deleted=True, eth0macaddress=None, eth1macaddress=None)
    assert shown(plan(world).slots) == [("reuse", "vm001"), ("keep", "vm002")]
    world.row(50, "other.vcl.test", mac="00:50:56:01:00:00")
    assert shown(plan(world).slots) == [("keep", "vm002"), ("add", "vm003")]
