from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import Claim, ClaimState, HostKey, Vm
from esxprov.placement.books import Books, Held
from esxprov.placement.promises import cost, foreign_claim_id, host_of
from esxprov.placement.reconcile import (
    LOST_GRACE_S,
    Correction,
    Memory,
    Plan,
    Seen,
    reconcile,
)
from tests.unit.placement.worlds import vm

HOSTS = [HostKey(f"esx{number}", "ha-host") for number in (1, 2, 3)]
KEY = HOSTS[0]
VM = vm("esx1", "vm-1", "a")
FOREIGN = Claim(foreign_claim_id("esx1", "vm-9"), KEY, 0, *cost(VM), "", ClaimState.FOREIGN)


def held(state: ClaimState = ClaimState.RUNNING, claim_id: str = "a", host: HostKey = KEY, **more: Any) -> Held:
    """A claim of the size of VM."""
    return Held(Claim(claim_id, host, 7, *cost(VM), "event", state), changed=1, **more)


def abandoned(event: str = "failed") -> Held:
    return held(ClaimState.CLAIMED, lease_s=-1.0, event=event)


def books(*claims: Held, released: Iterable[str] = ()) -> Books:
    """With the sums that they should have."""
    sums: defaultdict[HostKey, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for one in claims:
        ram_mb, cpus = sums[one.claim.host]
        sums[one.claim.host] = ram_mb + one.claim.ram_mb, cpus + one.claim.cpus
    return Books(claims, dict(sums), frozenset(released))


def seen(*vms: Vm, silent: Sequence[str] = (), away: Sequence[HostKey] = ()) -> list[Seen]:
    """All hosts answer but those on `silent` endpoints, and `away` ones whose endpoint answers in their place."""
    return [
        Seen(host.endpoint, frozenset({host} - set(away)), tuple(one for one in vms if one.endpoint == host.endpoint))
        for host in HOSTS
        if host.endpoint not in silent
    ]


def plan(known: Books, world: Sequence[Seen], memory: Memory | None = None, **options: Any) -> Plan:
    return reconcile(known, world, HOSTS, memory or Memory(), **options)


def after(known: Books, world: Sequence[Seen], memory: Memory | None = None) -> list[Claim | None]:
    """What the claims become that are to be corrected."""
    return [one.after for one in plan(known, world, memory).corrections]


def unreadable(one: Vm) -> Vm:
    """Its datastore is away."""
    return replace(one, vmx_path="", annotation="", ram_mb=0, cpus=0)


MISSED = Memory(missing=frozenset({"a"}))


# --- nothing to do --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [ClaimState.CLAIMED, ClaimState.RUNNING, ClaimState.TO_BE_DESTROYED])
def test_a_claim_with_its_vm_is_right(state: ClaimState) -> None:
    assert plan(books(held(state)), seen(VM)) == Plan()


def test_a_claim_on_its_way_needs_no_vm() -> None:
    on_its_way = held(ClaimState.CLAIMED, lease_s=200.0, event="running")
    assert plan(books(on_its_way), seen()) == Plan()


def test_a_claim_whose_event_goes_on_is_kept_however_long_its_lease_is_over() -> None:
    """Its service died: the next one takes the event over, and counts on the claim."""
    assert plan(books(held(ClaimState.CLAIMED, lease_s=-9999.0, event="running")), seen()) == Plan()


def test_a_claim_without_vm_that_is_to_be_destroyed_is_left_to_the_sweeper() -> None:
    assert plan(books(held(ClaimState.TO_BE_DESTROYED)), seen(), MISSED).corrections == ()


# --- foreign VMs ----------------------------------------------------------------------------------------------------


def test_a_vm_that_nobody_claimed_is_counted_at_once() -> None:
    assert after(books(), seen(vm("esx1", "vm-9", None))) == [FOREIGN]


def test_a_vm_that_names_a_claim_which_nobody_knows_is_foreign() -> None:
    assert after(books(), seen(vm("esx1", "vm-9", "unknown"))) == [FOREIGN]


def test_a_vm_on_a_host_of_no_pool_is_not_counted() -> None:
    assert reconcile(books(), seen(vm("esx1", "vm-9", None)), HOSTS[1:], Memory()) == Plan()


def test_a_vm_whose_claim_was_just_released_is_foreign_if_it_is_still_there_next_time() -> None:
    """Else every removal between the look and the reading of the claims would make a claim for half a minute."""
    known, world = books(released=["a"]), seen(vm("esx1", "vm-9", "a"))
    first = plan(known, world)
    assert first.corrections == ()
    assert after(known, world, first.memory) == [FOREIGN]


def test_a_foreign_claim_goes_with_its_vm() -> None:
    assert after(books(Held(FOREIGN)), seen()) == [None]


def test_a_foreign_claim_is_what_its_vm_is_now() -> None:
    grown = vm("esx1", "vm-9", None, ram_mb=512, cpus=1)
    expected = replace(FOREIGN, ram_mb=cost(grown)[0], cpus=1)
    assert after(books(Held(FOREIGN)), seen(grown)) == [expected]


def test_a_clone_of_our_vm_is_foreign_and_the_one_on_the_claims_host_is_ours() -> None:
    original, clone = vm("esx1", "vm-1", "a"), vm("esx2", "vm-0", "a")
    (only,) = after(books(held()), seen(clone, original))
    assert only is not None
    assert (only.id, only.host, only.state) == (foreign_claim_id("esx2", "vm-0"), HOSTS[1], ClaimState.FOREIGN)


def test_of_two_on_the_claims_host_the_older_one_is_ours() -> None:
    (only,) = after(books(held()), seen(vm("esx1", "vm-12", "a"), vm("esx1", "vm-9", "a")))
    assert only is not None
    assert only.id == foreign_claim_id("esx1", "vm-12")


def test_a_clone_is_the_claims_vm_when_its_original_is_gone() -> None:
    clone = vm("esx1", "vm-9", "a")
    assert after(books(held(), Held(FOREIGN)), seen(clone)) == [None]


# --- lost VMs -------------------------------------------------------------------------------------------------------


def test_a_vm_is_lost_when_it_is_missed_twice() -> None:
    first = plan(books(held()), seen())
    assert (first.corrections, first.memory) == ((), MISSED)
    assert after(books(held()), seen(), first.memory) == [replace(held().claim, state=ClaimState.LOST)]


def test_a_vm_seen_between_two_looks_without_it_is_not_lost() -> None:
    known = books(held())
    memory = plan(known, seen(VM), plan(known, seen()).memory).memory
    assert plan(known, seen(), memory).corrections == ()


def test_a_lost_claim_is_released_after_its_grace() -> None:
    assert after(books(held(ClaimState.LOST, age_s=LOST_GRACE_S - 1)), seen()) == []
    assert after(books(held(ClaimState.LOST, age_s=LOST_GRACE_S)), seen()) == [None]


def test_a_lost_vm_that_is_seen_again_runs() -> None:
    assert after(books(held(ClaimState.LOST, age_s=LOST_GRACE_S)), seen(VM)) == [held().claim]


# --- VMs that are not as claimed ------------------------------------------------------------------------------------


def test_a_claim_follows_its_vm_to_another_host() -> None:
    assert after(books(held()), seen(vm("esx2", "vm-1", "a"))) == [replace(held().claim, host=HOSTS[1])]


def test_a_vm_of_which_the_host_is_not_known_stays_where_it_is_claimed() -> None:
    assert after(books(held()), seen(replace(VM, host_moid=""))) == []


def test_a_claim_grows_with_its_vm_and_does_not_shrink() -> None:
    larger = vm("esx1", "vm-1", "a", ram_mb=8192, cpus=1)
    expected = replace(held().claim, ram_mb=cost(larger)[0])
    assert after(books(held()), seen(larger)) == [expected]
    assert after(books(held()), seen(vm("esx1", "vm-1", "a", ram_mb=512))) == []


# --- leases that are over -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["failed", "cancelled", "ok", ""])
def test_an_abandoned_claim_without_vm_is_released(event: str) -> None:
    assert after(books(abandoned(event)), seen()) == [None]


@pytest.mark.parametrize(
    ("event", "state"),
    [
        ("failed", ClaimState.TO_BE_DESTROYED),
        ("cancelled", ClaimState.TO_BE_DESTROYED),
        ("ok", ClaimState.RUNNING),
        ("", ClaimState.RUNNING),
    ],
)
def test_an_abandoned_claim_whose_vm_is_there_is_kept(event: str, state: ClaimState) -> None:
    assert after(books(abandoned(event)), seen(VM)) == [replace(abandoned().claim, state=state)]


# --- doubt ----------------------------------------------------------------------------------------------------------

DOUBTED = [
    pytest.param(held(), id="running"),
    pytest.param(held(ClaimState.LOST, age_s=LOST_GRACE_S), id="lost"),
    pytest.param(abandoned(), id="abandoned"),
    pytest.param(Held(FOREIGN), id="foreign"),
]


@pytest.mark.parametrize("one", DOUBTED)
@pytest.mark.parametrize(
    "world",
    [
        pytest.param(seen(silent=["esx1"]), id="the endpoint is silent"),
        pytest.param(seen(away=[KEY]), id="the host is away"),
        pytest.param(seen(unreadable(vm("esx1", "vm-5", None))), id="a VM cannot be read"),
    ],
)
def test_nothing_is_freed_on(one: Held, world: list[Seen]) -> None:
    changes = plan(books(one), world, MISSED).corrections
    assert [change for change in changes if change.planned is not None] == []


def test_vms_that_cannot_be_read_are_those_of_the_claims_whose_vm_is_not_seen_and_the_rest_is_foreign() -> None:
    machines = [unreadable(vm("esx1", f"vm-{number}", None)) for number in (1, 2, 3)]
    known = books(held(claim_id="a"), held(claim_id="b"))
    (only,) = after(known, seen(*machines))
    assert only is not None
    assert (only.id, only.state) == (foreign_claim_id("esx1", "vm-3"), ClaimState.FOREIGN)


def test_a_foreign_vm_that_cannot_be_read_any_more_is_counted_as_it_was() -> None:
    assert after(books(Held(FOREIGN)), seen(unreadable(vm("esx1", "vm-9", None)))) == []


# --- the circuit breaker --------------------------------------------------------------------------------------------


def many(total: int, freed: int) -> tuple[Books, list[Seen]]:
    """Of so many claims so many are to be freed."""
    gone = [replace(abandoned(), claim=replace(abandoned().claim, id=f"gone-{number}")) for number in range(freed)]
    names = [f"here-{number}" for number in range(total - freed)]
    here = [held(claim_id=name) for name in names]
    return books(*gone, *here), seen(*(vm("esx1", name, name) for name in names))


@pytest.mark.parametrize(("total", "freed"), [(3, 3), (10, 3), (80, 4), (200, 10)])
def test_as_many_claims_as_usual_are_freed(total: int, freed: int) -> None:
    done = plan(*many(total, freed))
    assert (len(done.corrections), done.alarm) == (freed, None)


@pytest.mark.parametrize(("total", "freed"), [(4, 4), (79, 4), (200, 11)])
def test_of_too_many_claims_to_free_at_once_none_is(total: int, freed: int) -> None:
    done = plan(*many(total, freed))
    assert done.corrections == ()
    assert done.alarm is not None
    assert done.alarm.startswith(f"{freed} of {total} claims would be freed at once")
    assert "on esx1" in done.alarm


def test_what_adds_to_what_is_counted_is_done_in_spite_of_an_alarm() -> None:
    known, world = many(10, 10)
    done = plan(known, [*world, *seen(vm("esx2", "vm-9", None), silent=["esx1", "esx3"])])
    assert [one.planned for one in done.corrections] == [None]
    assert done.alarm is not None


def test_all_is_freed_by_force() -> None:
    known, world = many(10, 10)
    done = plan(known, world, force=True)
    assert (len(done.corrections), done.alarm) == (10, None)


# --- sums -----------------------------------------------------------------------------------------------------------


def test_a_host_whose_sums_are_not_those_of_its_claims_is_repaired() -> None:
    known = books(held())
    wrong = replace(known, sums={KEY: (1, 1), HOSTS[1]: (5, 0), HOSTS[2]: (0, 0)})
    repairs = plan(wrong, seen(VM)).repairs
    assert [(repair.host, repair.booked, repair.claimed) for repair in repairs] == [
        (KEY, (1, 1), cost(VM)),
        (HOSTS[1], (5, 0), (0, 0)),
    ]


# --- whatever happens -----------------------------------------------------------------------------------------------

claim_ids = st.sampled_from("abcdef")
machines = st.builds(
    vm,
    on=st.sampled_from([host.endpoint for host in HOSTS]),
    moid=st.sampled_from([f"vm-{number}" for number in range(12)]),
    claim=st.none() | claim_ids,
    ram_mb=st.sampled_from([1024, 4096, 8192]),
    cpus=st.integers(1, 4),
)
vms = st.lists(
    st.one_of(machines, machines.map(unreadable)), max_size=12, unique_by=lambda one: (one.endpoint, one.moid)
)


@st.composite
def known_books(draw: st.DrawFn) -> Books:
    claims: dict[str, Held] = {}
    for claim_id in draw(st.lists(claim_ids, unique=True)):
        state = draw(st.sampled_from([state for state in ClaimState if state not in ("foreign", "released")]))
        lease_s = draw(st.sampled_from([-1.0, 100.0])) if state is ClaimState.CLAIMED else None
        event = draw(st.sampled_from(["", "running", "ok", "failed"]))
        host, age_s = draw(st.sampled_from(HOSTS)), draw(st.sampled_from([0, LOST_GRACE_S]))
        claims[claim_id] = held(state, claim_id, host, lease_s=lease_s, event=event, age_s=age_s)
    for host, number in draw(st.lists(st.tuples(st.sampled_from(HOSTS), st.integers(0, 11)), max_size=4)):
        claim_id = foreign_claim_id(host.endpoint, f"vm-{number}")
        claims[claim_id] = Held(replace(FOREIGN, id=claim_id, host=host))
    released = draw(st.sets(claim_ids)) - set(claims)
    return books(*claims.values(), released=released)


def applied(known: Books, corrections: Iterable[Correction]) -> Books:
    """The books when these are done."""
    claims = {one.claim.id: one for one in known.claims}
    for one in corrections:
        if one.after is None:
            del claims[one.id]
        else:
            lease_s = claims[one.id].lease_s if one.after.state is ClaimState.CLAIMED else None
            claims[one.id] = Held(one.after, lease_s=lease_s, event=claims[one.id].event if one.planned else "")
    return books(*claims.values(), released=known.released)


memories = st.builds(Memory, missing=st.frozensets(claim_ids))


@given(known_books(), vms, memories, st.sets(st.sampled_from([host.endpoint for host in HOSTS])))
def test_nothing_is_ever_freed_on_silence(known: Books, there: list[Vm], memory: Memory, silent: set[str]) -> None:
    world = seen(*there, silent=sorted(silent))
    blind = {host_of(one) for one in there if not one.vmx_path}
    for one in plan(known, world, memory, force=True).corrections:
        if one.before is not None and one.after is None:
            assert one.before.host.endpoint not in silent
            assert one.before.host not in blind


@given(known_books(), vms, memories, st.booleans())
def test_what_was_done_need_not_be_done_again(known: Books, there: list[Vm], memory: Memory, force: bool) -> None:
    world = seen(*there)
    done = plan(known, world, memory, force=force)
    assert plan(applied(known, done.corrections), world, memory, force=force).corrections == ()


@given(known_books(), vms)
def test_every_vm_that_was_seen_is_counted_in_the_end(known: Books, there: list[Vm]) -> None:
    """On the second look at the latest: of what was just released the first one believes that it goes."""
    world = seen(*there)
    first = plan(known, world)
    then = applied(known, first.corrections)
    then = applied(then, plan(then, world, first.memory).corrections)
    for host in HOSTS:
        claimed = sum(one.claim.ram_mb for one in then.claims if one.claim.host == host)
        assert claimed >= sum(cost(one)[0] for one in there if host_of(one) == host and one.vmx_path)
        counted = [one for one in then.claims if one.claim.host == host]
        assert len(counted) >= len([one for one in there if host_of(one) == host])


@given(known_books(), st.dictionaries(st.sampled_from(HOSTS), st.tuples(st.integers(0, 99), st.integers(0, 9))))
def test_after_the_repairs_the_sums_are_those_of_the_claims(known: Books, sums: dict[HostKey, tuple[int, int]]) -> None:
    repaired = {**sums, **{repair.host: repair.claimed for repair in plan(replace(known, sums=sums), []).repairs}}
    assert {host: sum_ for host, sum_ in repaired.items() if sum_ != (0, 0)} == known.sums


# --- hosts that come back -------------------------------------------------------------------------------------------


def test_what_is_missing_on_a_host_that_comes_back_is_neither_lost_nor_freed() -> None:
    lost = held(ClaimState.LOST, age_s=LOST_GRACE_S)
    for known in (held(), lost, abandoned()):
        assert plan(books(known), seen(), MISSED, coming={KEY}) == Plan()
    assert plan(books(held()), seen(), MISSED, coming={HOSTS[1]}).corrections != ()


def test_a_vm_that_is_back_is_known_again_though_others_are_still_to_come() -> None:
    lost = held(ClaimState.LOST)
    (correction,) = plan(books(lost), seen(VM), coming={KEY}).corrections
    assert correction.after == replace(lost.claim, state=ClaimState.RUNNING)
