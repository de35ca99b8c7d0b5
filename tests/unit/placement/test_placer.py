"""A placer that has lived through many changes decides as one that sees the world for the first time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.annotation import Annotation
from esxprov.model import Claim, ClaimState, ClusterAffinity, Host, HostKey, Placement, Pool, PowerState, Vm
from esxprov.placement.choose import Decision, choose_together
from esxprov.placement.ledger import Ledger
from esxprov.placement.placer import Decided, Member, Placer, Seen, Sight
from esxprov.placement.request import PlacementRequest
from esxprov.placement.snapshot import Size, Snapshot
from esxprov.placement.wants import Later, Proposal
from tests.unit.placement.worlds import REQUEST, clusters, machine, names, snapshots

POOL = Pool("main", tuple(names), "blades")
CATALOGUE = (Size(4000, 2),)

pools = st.builds(
    Pool,
    st.just("main"),
    st.just(tuple(names)),
    st.just("blades"),
    policy=st.sampled_from(["pack", "spread"]),
    cpu_ratio=st.sampled_from([1.0, 4.0]),
    ram_ratio=st.sampled_from([0.8, 1.0, 1.5]),
    reserved_ram_mb=st.sampled_from([0, 1024]),
    n_plus_one=st.booleans(),
    image_hosts=st.sampled_from([(), (("mac*", ("esx1", "esx2")),)]),
)


def sights(hosts: Sequence[Host], vms: Sequence[Vm] = (), seen_at: float = 0.0) -> tuple[Sight, ...]:
    return tuple(
        Sight(name, (host,), tuple(vm for vm in vms if vm.endpoint == name), seen_at)
        for host in hosts
        for name in [host.key.endpoint]
    )


def as_it_is(snapshot: Snapshot) -> Snapshot:
    return snapshot


def answer(placer: Placer, ledger: Ledger, members: Sequence[Member], seen: Seen) -> Proposal[Decided]:
    """What it comes to, as for the first of the members."""
    hint = None
    for _ in range(3):
        proposal = placer.decide(ledger, hint, members[0].computer_id, members, seen, as_it_is)
        if isinstance(proposal, Proposal):
            return proposal
        hint = proposal.work()
    raise AssertionError("nothing has changed, and it does not end")


def members_of(requests: Sequence[PlacementRequest]) -> list[Member]:
    return [Member(request, 100 + number, 200 + number) for number, request in enumerate(requests)]


@given(pools, st.lists(st.tuples(snapshots(), clusters(), st.integers(0, 20_000)), min_size=1, max_size=4))
def test_what_it_decides_is_what_would_be_decided_anew_on_what_it_writes_down(
    pool: Pool, days: list[tuple[Snapshot, tuple[PlacementRequest, ...], int]]
) -> None:
    placer, ledger = Placer(pool), Ledger()
    for world, asked, after_s in days:
        at = world.at + after_s
        requests = tuple(replace(one, ends_at=world.at + 10_000) for one in asked)
        ledger.replace_all(world.claims)
        unfit = {host.key: why for host in world.hosts if (why := world.unfit.get(str(host.key)))}
        catalogue = world.catalogue or CATALOGUE
        proposal = answer(
            placer, ledger, members_of(requests), Seen(sights(world.hosts, world.vms), catalogue, unfit, at)
        )
        made = proposal.decision
        assert (made.requests, made.snapshot.unfit) == (requests, dict(world.unfit))
        assert set(made.snapshot.hosts) == set(world.hosts)
        assert {(vm.endpoint, vm.moid) for vm in made.snapshot.vms} == {
            (vm.endpoint, vm.moid) for vm in world.vms if vm.endpoint in {host.key.endpoint for host in world.hosts}
        }
        anew = choose_together(requests, made.snapshot)
        assert made.decision.placements == anew.placements
        assert [room.claim.host for room in proposal.rooms] == [one.host for one in anew.placements]


@given(pools, snapshots(), clusters())
def test_its_rooms_never_let_a_host_promise_more_than_it_may(
    pool: Pool, world: Snapshot, requests: tuple[PlacementRequest, ...]
) -> None:
    ledger = Ledger()
    ledger.replace_all(world.claims)
    seen = Seen(sights(world.hosts, world.vms), world.catalogue or CATALOGUE)
    proposal = answer(Placer(pool), ledger, members_of(requests), seen)
    for room in proposal.rooms:
        made = [one.claim for one in proposal.rooms if one.claim.host == room.claim.host]
        claims = [*ledger.of_host(room.claim.host), *made]
        assert sum(claim.ram_mb for claim in claims) <= room.most_ram_mb
        assert sum(claim.cpus for claim in claims) <= room.most_cpus


# --- clusters --------------------------------------------------------------------------------------------------------


def own_vm(on: str, computer: int, image: str, moid: str = "vm-1") -> Vm:
    text = str(Annotation("event", "claim", computer, None, image))
    return Vm(on, moid, moid, "ha-host", f"[nfs1] {moid}/x.vmx", PowerState.ON, 4096, 2, text)


def pair(max_per_host: int | None = None) -> list[Member]:
    asked = replace(REQUEST, image="image", group="request-1", max_per_host=max_per_host)
    return members_of([replace(asked, id=name) for name in ("one", "two")])


def claimed(member: Member, host: str, state: ClaimState = ClaimState.CLAIMED) -> Claim:
    key = HostKey(host, "ha-host")
    return Claim(
        "claim-2", key, member.computer_id, 4161, 2, "", state, reservation_id=member.reservation_id, group="request-1"
    )


def test_who_comes_first_claims_for_all() -> None:
    one, two = pair()
    proposal = answer(Placer(POOL), Ledger(), [one, two], Seen(sights([machine("esx1")]), CATALOGUE))
    claims = [room.claim for room in proposal.rooms]
    assert [(one.computer_id, one.reservation_id) for one in claims] == [(100, 200), (101, 201)]
    assert {one.group for one in claims} == {"request-1"}


@pytest.mark.parametrize("state", [ClaimState.CLAIMED, ClaimState.RUNNING])
def test_who_has_a_claim_already_is_not_placed_again(state: ClaimState) -> None:
    one, two = pair()
    ledger = Ledger()
    ledger.put(claimed(two, "esx1", state))
    proposal = answer(Placer(POOL), ledger, [one, two], Seen(sights([machine("esx1")]), CATALOGUE))
    assert [room.claim.computer_id for room in proposal.rooms] == [one.computer_id]


def test_those_who_have_a_claim_count_for_the_most_per_host() -> None:
    one, two = pair(max_per_host=1)
    ledger = Ledger()
    ledger.put(claimed(two, "esx1"))
    (room,) = answer(
        Placer(POOL), ledger, [one, two], Seen(sights([machine("esx1"), machine("esx2")]), CATALOGUE)
    ).rooms
    assert room.claim.host.endpoint == "esx2"


def test_a_computer_that_has_a_vm_of_its_image_already_needs_no_place() -> None:
    one, two = pair()
    vms = [own_vm("esx1", two.computer_id, "image")]
    proposal = answer(Placer(POOL), Ledger(), [one, two], Seen(sights([machine("esx1")], vms), CATALOGUE))
    assert [room.claim.computer_id for room in proposal.rooms] == [one.computer_id]


def test_the_vm_of_another_image_makes_room_for_the_new_one() -> None:
    one, two = pair()
    vms = [own_vm("esx1", two.computer_id, "other")]
    host = machine("esx1", ram_mb=1024 + 2 * REQUEST.ram_needed_mb)
    proposal = answer(Placer(POOL), Ledger(), [one, two], Seen(sights([host], vms), CATALOGUE))
    assert len(proposal.rooms) == 2


def test_all_or_nobody() -> None:
    host = machine("esx1", ram_mb=1024 + REQUEST.ram_needed_mb)
    proposal = answer(Placer(POOL), Ledger(), pair(), Seen(sights([host]), CATALOGUE))
    assert (proposal.rooms, proposal.decision.decision.placements) == ((), ())
    assert "all 2 VMs" in proposal.decision.decision.reason


@pytest.mark.parametrize(
    ("affinity", "hosts"),
    [(ClusterAffinity.APART, 2), (ClusterAffinity.PREFER_APART, 2), (ClusterAffinity.TOGETHER, 1)],
)
def test_the_vms_of_a_request_stand_to_each_other_as_the_pool_wants(affinity: ClusterAffinity, hosts: int) -> None:
    pool = replace(POOL, cluster_affinity=affinity)
    placer = Placer(pool)
    requests = placer.rules.cluster([member.request for member in pair()], "request-1")
    proposal = answer(
        placer, Ledger(), members_of(requests), Seen(sights([machine("esx1"), machine("esx2")]), CATALOGUE)
    )
    assert len({room.claim.host for room in proposal.rooms}) == hosts


# --- what was worked out while others went on ------------------------------------------------------------------------


def uneven() -> tuple[list[Member], Seen]:
    """Three VMs for which greed finds no place: the large one goes where only the two small ones would have fitted."""
    requests = [
        replace(REQUEST, id=str(number), ram_mb=ram, overhead_mb=0, cpus=1, group="request-1")
        for number, ram in enumerate((2000, 1500, 1500))
    ]
    hosts = [machine("esx1", ram_mb=1024 + 3000, threads=1), machine("esx2", ram_mb=1024 + 2000)]
    # On esx1 vCPUs are scarce, so its RAM counts little.
    return members_of(requests), Seen(sights(hosts), (Size(100, 1),))


def test_what_greed_does_not_find_is_worked_out_while_others_go_on() -> None:
    placer, ledger = Placer(POOL), Ledger()
    members, seen = uneven()
    later = placer.decide(ledger, None, members[0].computer_id, members, seen, as_it_is)
    assert isinstance(later, Later)
    proposal = placer.decide(ledger, later.work(), members[0].computer_id, members, seen, as_it_is)
    assert isinstance(proposal, Proposal)
    assert [room.claim.host.endpoint for room in proposal.rooms] == ["esx2", "esx1", "esx1"]


def test_a_way_that_somebody_has_closed_meanwhile_is_not_gone() -> None:
    placer, ledger = Placer(POOL), Ledger()
    members, seen = uneven()
    later = placer.decide(ledger, None, members[0].computer_id, members, seen, as_it_is)
    assert isinstance(later, Later)
    hint = later.work()
    assert hint.decision.placements
    ledger.put(Claim("other", HostKey("esx1", "ha-host"), 9, 512, 1, "event"))
    again = placer.decide(ledger, hint, members[0].computer_id, members, seen, as_it_is)
    assert isinstance(again, Later)
    assert not again.work().decision.placements


def test_a_way_that_leaves_no_place_for_a_host_that_fails_any_more_is_not_gone() -> None:
    placer, ledger = Placer(replace(POOL, n_plus_one=True)), Ledger()
    members, seen = uneven()
    spare = machine("esx3", ram_mb=1024 + 3000)
    seen = replace(seen, sights=(*seen.sights, *sights([spare])))
    hint = Decided(
        tuple(member.request for member in members),
        (snapshot := Snapshot((), at=1)),
        Decision(
            tuple(Placement(HostKey(name, "ha-host"), name, "nfs1", "as it was") for name in ("esx2", "esx1", "esx1")),
            "as it was",
        ),
    )
    proposal = placer.decide(ledger, hint, members[0].computer_id, members, seen, as_it_is)
    assert isinstance(proposal, Proposal)
    assert proposal.decision.snapshot == snapshot
    ledger.put(Claim("other", spare.key, 9, 512, 1, "event"))
    assert isinstance(placer.decide(ledger, hint, members[0].computer_id, members, seen, as_it_is), Later)


def test_a_no_is_worked_out_while_others_go_on_and_stands() -> None:
    placer, ledger = Placer(POOL), Ledger()
    seen = Seen(sights([machine("esx1", ram_mb=2048)]), CATALOGUE)
    (one, _) = pair()
    later = placer.decide(ledger, None, one.computer_id, [one], seen, as_it_is)
    assert isinstance(later, Later)
    proposal = placer.decide(ledger, later.work(), one.computer_id, [one], seen, as_it_is)
    assert isinstance(proposal, Proposal)
    assert "esx1" in proposal.decision.decision.refused


def test_room_that_was_made_while_a_no_was_worked_out_is_taken() -> None:
    placer, ledger = Placer(POOL), Ledger()
    (one, _) = pair()
    later = placer.decide(
        ledger, None, one.computer_id, [one], Seen(sights([machine("esx1", ram_mb=2048)]), CATALOGUE), as_it_is
    )
    assert isinstance(later, Later)
    now = Seen(sights([machine("esx1")]), CATALOGUE)
    proposal = placer.decide(ledger, later.work(), one.computer_id, [one], now, as_it_is)
    assert isinstance(proposal, Proposal)
    assert len(proposal.rooms) == 1


def test_a_no_for_others_than_those_who_are_left_is_no_answer() -> None:
    placer, ledger = Placer(POOL), Ledger()
    one, two = pair()
    seen = Seen(sights([machine("esx1", ram_mb=2048)]), CATALOGUE)
    later = placer.decide(ledger, None, one.computer_id, [one, two], seen, as_it_is)
    assert isinstance(later, Later)
    hint = later.work()
    ledger.put(claimed(two, "esx2"))
    assert isinstance(placer.decide(ledger, hint, one.computer_id, [one, two], seen, as_it_is), Later)


def test_what_a_no_says_of_later_is_what_vcl_has_promised() -> None:
    placer, ledger = Placer(POOL), Ledger()
    one, two = pair()
    host = machine("esx1", ram_mb=1024 + REQUEST.ram_needed_mb)
    ledger.put(replace(claimed(two, "esx1", ClaimState.RUNNING), computer_id=9))
    seen = Seen(sights([host]), CATALOGUE, at=1_700_000_000)

    def foresee(snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, claims=tuple(replace(claim, ends_at=1_700_003_600) for claim in snapshot.claims))

    later = placer.decide(ledger, None, one.computer_id, [one], seen, foresee)
    assert isinstance(later, Later)
    assert any("when reservation 201 ends" in help for help in later.work().decision.help)


def test_what_is_known_to_end_comes_nearer_as_time_passes() -> None:
    placer, ledger = Placer(replace(POOL, reserved_ram_mb=0, cpu_ratio=1.0)), Ledger()
    now, hour_s = 1_700_000_000, 3600
    for number, hours in ((1, 20), (2, 10)):
        key = HostKey(f"esx{number}", "ha-host")
        ends_at = now + hours * hour_s
        ledger.put(Claim(str(number), key, number, 9000, 2, "event", ClaimState.RUNNING, ends_at=ends_at))
    (one, _) = pair()
    one = replace(one, request=replace(one.request, ram_mb=2048, overhead_mb=0, ends_at=now + 14 * hour_s))
    seen = Seen(sights([machine("esx1"), machine("esx2")]), (Size(8000, 2),))
    chosen = []
    for at in (now, now + 9 * hour_s):
        decided = answer(placer, ledger, [one], replace(seen, at=at)).decision
        assert decided.decision.placements == choose_together(decided.requests, decided.snapshot).placements
        chosen += [place.host_name for place in decided.decision.placements]
    assert chosen == ["esx2", "esx1"]


def test_what_is_still_to_be_written_to_a_datastore_counts_until_its_claim_is_gone() -> None:
    placer, ledger = Placer(POOL), Ledger()
    (one, _) = pair()
    seen = Seen(sights([machine("esx1")]), CATALOGUE)
    assert answer(placer, ledger, [one], seen).rooms
    ledger.put(Claim("other", HostKey("esx1", "ha-host"), 9, 512, 1, "event", disk_mb=90_000, datastore="nfs1"))
    assert "disk" in {why.rule for why in answer(placer, ledger, [one], seen).decision.decision.refused.values()}
    ledger.remove("other")
    assert answer(placer, ledger, [one], seen).rooms


# --- what endpoints say ----------------------------------------------------------------------------------------------


def test_what_an_endpoint_said_before_does_not_undo_what_it_said_since() -> None:
    placer, ledger = Placer(POOL), Ledger()
    (one, _) = pair()
    full = [own_vm("esx1", 9, "image", f"vm-{number}") for number in range(4)]
    host = machine("esx1", ram_mb=1024 + 4 * REQUEST.ram_needed_mb)
    answer(placer, ledger, [one], Seen(sights([host], full, seen_at=2.0), CATALOGUE))
    proposal = answer(placer, ledger, [one], Seen(sights([host], (), seen_at=1.0), CATALOGUE))
    assert not proposal.rooms


def test_an_endpoint_that_is_silent_offers_nothing_until_it_answers_again() -> None:
    placer, ledger = Placer(POOL), Ledger()
    (one, _) = pair()
    here = Seen(sights([machine("esx1")], seen_at=1.0), CATALOGUE)
    assert answer(placer, ledger, [one], here).rooms
    assert not answer(placer, ledger, [one], Seen((), CATALOGUE)).rooms
    assert answer(placer, ledger, [one], here).rooms


def test_hosts_of_another_cluster_are_not_the_pool_s() -> None:
    (one, _) = pair()
    host = replace(machine("esx1"), cluster="other")
    placer = Placer(replace(POOL, cluster="ours"))
    assert not answer(placer, Ledger(), [one], Seen(sights([host]), CATALOGUE)).rooms


def test_it_follows_one_ledger() -> None:
    placer = Placer(POOL)
    (one, _) = pair()
    answer(placer, Ledger(), [one], Seen((), CATALOGUE))
    with pytest.raises(ValueError, match="one ledger"):
        answer(placer, Ledger(), [one], Seen((), CATALOGUE))
