from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import Claim, ClaimState, Host, HostKey, KnownHost, Machine, PowerState, Vm
from esxprov.placement.books import Held
from esxprov.placement.promises import host_of
from esxprov.placement.recover import (
    BOOT_JITTER_S,
    PATIENCE_S,
    Case,
    Files,
    Hosts,
    Outcome,
    forgotten,
    hosts,
    plan,
    rehome,
)
from tests.unit.placement.worlds import vm

KEY, OTHER = HostKey("esx1", "ha-host"), HostKey("esx2", "ha-host")
BOOTED = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
HOST = Host(KEY, "esx1", "connected", False, 65536, 0, 32, uuid="uuid-1", booted_at=BOOTED)
KNOWN = KnownHost("uuid-1", KEY, BOOTED, 60, is_recovered=True)

CLAIM = Claim("a", KEY, 7, 4096, 2, "event", ClaimState.RUNNING)
WAS_ON = Machine("a", 7, "[nfs1] inuse/vm7/vm7.vmx", is_on=True)
VM = vm("esx1", "vm-1", "a")


def after_boot(host: Host = HOST, s: float = 3600) -> Host:
    return replace(host, booted_at=BOOTED + timedelta(seconds=s))


def coming(*seen: Host, known: KnownHost | None = KNOWN, ours: Iterable[HostKey] = (KEY,), **more: Any) -> Hosts:
    return hosts(seen, frozenset(ours), {known.uuid: known} if known else {}, **more)


# --- which hosts come back ------------------------------------------------------------------------------------------


def test_a_host_that_is_as_it_was_does_not_come_back() -> None:
    assert coming(HOST) == Hosts((), (), (), frozenset())


def test_a_host_that_has_booted_comes_back() -> None:
    assert coming(after_boot()) == Hosts((after_boot(),), (after_boot(),), (), frozenset())


def test_a_host_whose_clock_was_set_back_by_its_boot_comes_back_too() -> None:
    assert coming(after_boot(s=-(10**6))).coming


@pytest.mark.parametrize("s", [-BOOT_JITTER_S, 0.001, BOOT_JITTER_S])
def test_a_time_of_boot_that_is_worked_out_a_little_differently_is_no_boot(s: float) -> None:
    assert coming(after_boot(s=s)) == Hosts((), (), (), frozenset())


def test_a_host_that_nobody_has_seen_before_or_that_has_another_key_is_looked_at() -> None:
    assert coming(HOST, known=None).news == coming(HOST, known=None).coming == (HOST,)
    added_anew = replace(HOST, key=HostKey("esx1", "host-9"))
    assert coming(added_anew, ours={added_anew.key}).news == (added_anew,)


def test_a_host_comes_back_until_all_is_right_but_not_for_ever() -> None:
    waiting = replace(KNOWN, is_recovered=False)
    assert coming(HOST, known=waiting) == Hosts((), (HOST,), (), frozenset())
    late = replace(waiting, noticed_s=PATIENCE_S + 1)
    assert coming(HOST, known=late) == Hosts((), (), (HOST,), frozenset())
    assert coming(after_boot(), known=late).coming == (after_boot(),)


def test_a_host_that_is_named_is_treated_as_if_it_had_just_booted() -> None:
    assert coming(HOST, just_booted={"esx1"}) == Hosts((), (HOST,), (), frozenset())
    late = replace(KNOWN, is_recovered=False, noticed_s=PATIENCE_S + 1)
    assert coming(HOST, known=late, just_booted={"esx1"}).coming == (HOST,)


@pytest.mark.parametrize("changes", [{"state": "notResponding"}, {"uuid": ""}, {"booted_at": None}])
def test_a_host_that_does_not_answer_or_says_not_who_it_is_or_since_when_does_not_come_back(
    changes: dict[str, Any],
) -> None:
    assert coming(replace(after_boot(), **changes)) == Hosts((), (), (), frozenset())


def test_hosts_of_no_pool_do_not_come_back() -> None:
    assert coming(after_boot(), ours=()) == Hosts((), (), (), frozenset())


def test_a_uuid_that_two_hosts_have_is_no_identity() -> None:
    twin = replace(after_boot(), key=OTHER, name="esx2")
    assert coming(after_boot(), twin) == Hosts((), (), (), frozenset({"uuid-1"}))


# --- hosts that were added anew -------------------------------------------------------------------------------------

ANEW = replace(HOST, key=HostKey("vc1", "host-9"))
OLD = KnownHost("uuid-1", HostKey("vc1", "host-4"), BOOTED, 60, is_recovered=True)


def moved(*claims: Claim, seen: Sequence[Host] = (ANEW,), answering: Iterable[str] = ("vc1",)) -> list[Claim | None]:
    """What becomes of the claims."""
    known = {OLD.uuid: OLD}
    news = hosts(seen, {ANEW.key}, known).news
    corrections = rehome([Held(one) for one in claims], seen, news, known, set(answering), {"vc1", "esx1"})
    return [one.after for one in corrections]


ON_OLD = replace(CLAIM, host=OLD.key)


def test_the_claims_of_a_host_that_was_added_anew_follow_it() -> None:
    assert moved(ON_OLD, CLAIM) == [replace(ON_OLD, host=ANEW.key)]


def test_vms_that_nobody_claimed_are_found_anew_on_it() -> None:
    assert moved(replace(ON_OLD, state=ClaimState.FOREIGN)) == [None]


def test_claims_do_not_leave_a_host_that_is_still_there_or_whose_endpoint_is_silent() -> None:
    stranger = replace(HOST, key=OLD.key, uuid="uuid-2")
    assert moved(ON_OLD, seen=[ANEW, stranger]) == []
    assert moved(ON_OLD, seen=[ANEW, replace(stranger, state="disconnected", uuid="uuid-1")]) == []
    assert moved(ON_OLD, answering=()) == []


def test_claims_leave_a_host_whose_endpoint_is_not_configured_any_more() -> None:
    known = {OLD.uuid: OLD}
    corrections = rehome([Held(ON_OLD)], [ANEW], [ANEW], known, set(), {"esx1"})
    assert [one.after for one in corrections] == [replace(ON_OLD, host=ANEW.key)]


def test_claims_do_not_follow_a_uuid_that_two_hosts_have() -> None:
    assert moved(ON_OLD, seen=[ANEW, replace(ANEW, key=OTHER)]) == []


# --- what becomes of their VMs --------------------------------------------------------------------------------------


def planned(
    claim: Claim = CLAIM,
    *vms: Vm,
    machine: Machine | None = WAS_ON,
    files: Files | None = None,
    busy: Iterable[int] = (),
) -> Case:
    machines = {"a": machine} if machine else {}
    (case,) = plan([claim], {KEY}, vms, machines, {"a": files or Files(claim_id="a")}, frozenset(busy))
    return case


OFF = replace(VM, power=PowerState.OFF)


@pytest.mark.parametrize("state", [ClaimState.RUNNING, ClaimState.LOST])
def test_a_vm_that_was_forgotten_is_taken_up_again_and_switched_on_if_it_was_on(state: ClaimState) -> None:
    case = planned(replace(CLAIM, state=state))
    assert (case.outcome, case.switch_on, case.vm) == (Outcome.RECOVER, True, None)
    case = planned(replace(CLAIM, state=state), machine=replace(WAS_ON, is_on=False))
    assert (case.outcome, case.switch_on) == (Outcome.RECOVER, False)


def test_a_vm_that_its_host_still_knows_is_only_switched_on_if_it_was_on() -> None:
    case = planned(CLAIM, OFF)
    assert (case.outcome, case.switch_on, case.vm) == (Outcome.RECOVER, True, OFF)
    assert planned(CLAIM, OFF, machine=replace(WAS_ON, is_on=False)).outcome is Outcome.THERE
    assert planned(CLAIM, VM).outcome is Outcome.THERE
    assert planned(CLAIM, replace(VM, power=PowerState.SUSPENDED)).outcome is Outcome.THERE


@pytest.mark.parametrize("power", list(PowerState))
def test_a_vm_that_another_host_has_is_left_there(power: PowerState) -> None:
    elsewhere = replace(vm("esx2", "vm-4", "a"), power=power)
    case = planned(CLAIM, elsewhere)
    assert (case.outcome, case.reason, case.switch_on) == (Outcome.MOVED, "it is on esx2/ha-host", False)


def test_a_vm_that_runs_elsewhere_is_not_switched_on_here_though_it_is_registered_here() -> None:
    assert planned(CLAIM, OFF, vm("esx2", "vm-4", "a")).outcome is Outcome.MOVED


@pytest.mark.parametrize(
    ("files", "outcome", "reason"),
    [
        (Files(problem="esx1 cannot access datastore nfs1"), Outcome.WAIT, "esx1 cannot access datastore nfs1"),
        (Files(exists=False), Outcome.LOST, f"there is no {WAS_ON.vmx_path} any more"),
        (Files(claim_id="b"), Outcome.LOST, f"{WAS_ON.vmx_path} is another VM's by now"),
        (Files(claim_id=None), Outcome.LOST, f"{WAS_ON.vmx_path} is another VM's by now"),
    ],
)
def test_a_vm_whose_files_are_not_there_is_lost_or_waited_for(files: Files, outcome: Outcome, reason: str) -> None:
    case = planned(files=files)
    assert (case.outcome, case.reason) == (outcome, reason)


def test_a_vm_of_which_nobody_knows_where_it_lies_is_lost() -> None:
    assert planned(machine=None).outcome is Outcome.LOST


def test_nothing_is_taken_up_beside_a_vm_that_cannot_be_read_yet() -> None:
    unreadable = replace(VM, vmx_path="", annotation="")
    assert planned(CLAIM, unreadable).outcome is Outcome.WAIT


@pytest.mark.parametrize("vms", [(), (OFF,)])
def test_a_computer_that_an_event_works_on_is_left_to_it(vms: tuple[Vm, ...]) -> None:
    assert planned(CLAIM, *vms, busy={7}).outcome is Outcome.WAIT


@pytest.mark.parametrize("state", [ClaimState.CLAIMED, ClaimState.TO_BE_DESTROYED, ClaimState.FOREIGN])
def test_claims_on_their_way_and_those_that_are_to_go_are_left_to_others(state: ClaimState) -> None:
    assert plan([replace(CLAIM, state=state)], {KEY}, [], {"a": WAS_ON}, {}) == []


def test_claims_on_other_hosts_are_none_of_its_business() -> None:
    assert plan([replace(CLAIM, host=OTHER)], {KEY}, [], {"a": WAS_ON}, {}) == []


def test_only_of_vms_that_no_host_has_the_files_are_asked_for() -> None:
    claims = [CLAIM, replace(CLAIM, id="b"), replace(CLAIM, id="c"), replace(CLAIM, id="d", host=OTHER)]
    machines = {name: replace(WAS_ON, claim_id=name) for name in "abd"}
    assert forgotten(claims, {KEY}, [vm("esx2", "vm-1", "b")], machines) == [machines["a"]]


# --- no VM twice ----------------------------------------------------------------------------------------------------

_KEYS = st.sampled_from([KEY, OTHER, HostKey("esx3", "ha-host")])
_IDS = st.sampled_from("abcd")


@st.composite
def _claims(draw: st.DrawFn) -> list[Claim]:
    ids = draw(st.sets(_IDS))
    return [replace(CLAIM, id=one, host=draw(_KEYS), state=draw(st.sampled_from(list(ClaimState)))) for one in ids]


@st.composite
def _vms(draw: st.DrawFn) -> list[Vm]:
    numbers = range(draw(st.integers(0, 6)))
    return [
        replace(vm(draw(_KEYS).endpoint, f"vm-{number}", draw(_IDS)), power=draw(st.sampled_from(list(PowerState))))
        for number in numbers
    ]


@given(
    _claims(),
    _vms(),
    st.sets(_KEYS),
    st.dictionaries(_IDS, st.booleans()),
    st.dictionaries(_IDS, st.sampled_from([Files(), Files(claim_id="a"), Files(exists=False), Files(problem="x")])),
)
def test_whatever_there_is_no_vm_is_taken_up_that_somebody_has_or_that_may_be_anothers(
    claims: list[Claim], vms: list[Vm], back: set[HostKey], power: dict[str, bool], files: dict[str, Files]
) -> None:
    machines = {name: replace(WAS_ON, claim_id=name, is_on=is_on) for name, is_on in power.items()}
    cases = plan(claims, back, vms, machines, files)
    assert len({case.claim.id for case in cases}) == len(cases)
    for case in cases:
        assert case.claim.host in back
        having = [one for one in vms if f"claim={case.claim.id} " in one.annotation]
        if case.outcome is Outcome.RECOVER and case.vm is None:
            assert having == []
            assert files[case.claim.id].claim_id == case.claim.id
        if case.switch_on:
            assert machines[case.claim.id].is_on
            assert not any(one.power is PowerState.ON for one in having)
            assert case.vm is None or host_of(case.vm) == case.claim.host
