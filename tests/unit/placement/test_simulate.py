"""A trace in virtual time: what leaves makes room, what is refused has a reason for every host."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from esxprov.placement import trace
from esxprov.placement.simulate import Simulation, Summary
from esxprov.placement.snapshot import Policy, Rules

HEADER = "time_s,duration_s,request,vm,cpus,ram_mb,max_per_host"
ONE_HOST = ["h1,4,4000"]


def run(
    hosts: list[str], requests: list[str], policy: Policy = Policy.PACK, solver_ms: float = 1000
) -> tuple[list[dict[str, Any]], Summary]:
    ticks = count(step=1000)
    simulation = Simulation(
        trace.hosts(["host,cpus,ram_mb", *hosts], "h"),
        Rules(policy),
        budget_s=solver_ms / 1000,
        clock_ns=lambda: next(ticks),
    )
    return list(simulation.run(trace.arrivals([HEADER, *requests], "r"))), simulation.summary


def test_a_vm_that_leaves_makes_room_for_one_that_comes_at_that_moment() -> None:
    decisions, _ = run(ONE_HOST, ["0,10,r1,a,1,4000,", "9,10,r2,b,1,4000,", "10,10,r3,c,1,4000,"])
    assert [decision["placed"] for decision in decisions] == [True, False, True]


def test_a_vm_without_an_end_stays() -> None:
    decisions, _ = run(ONE_HOST, ["0,,r1,a,1,4000,", "1000000,10,r2,b,1,4000,"])
    assert [decision["placed"] for decision in decisions] == [True, False]


def test_decisions_say_what_was_asked_for() -> None:
    decisions, summary = run(
        ["h1,4,4000", "h2,2,9000"],
        [
            "0,,r1,a,4,1000,",
            "0,,r2,b,1,5000,",
            "1,,r3,c,2,2000,",
            "2,,r4,d,9,100,",
            "3,,r5,e,1,100,1",
            "3,,r5,f,1,100,1",
        ],
    )
    assert decisions == [
        {"request": "r1", "placed": True, "hosts": {"a": "h1"}},
        {"request": "r2", "placed": True, "hosts": {"b": "h2"}},
        {
            "request": "r3",
            "placed": False,
            "reason": "no host takes c (2 vCPUs, 2000 MB): 2 by cpus",
            "refused": {"h1": "cpus", "h2": "cpus"},
            "proved": True,
        },
        {
            "request": "r4",
            "placed": False,
            "reason": "d (9 vCPUs, 100 MB) is larger than any host",
            "refused": {"h1": "machine", "h2": "machine"},
            "proved": True,
        },
        {
            "request": "r5",
            "placed": False,
            "reason": "the 2 VMs do not fit together; f (1 vCPUs, 100 MB) is left: 1 by cpus, 1 by max_per_host",
            "refused": {"h1": "cpus", "h2": "max_per_host"},
            "proved": True,
        },
    ]
    assert summary.to_json() == {
        "placed": 2,
        "refused": 3,
        "refused_ram_mb": 2000 + 100 + 200,
        "utilisation_at_first_refusal": 0.8333,
        "decisions_per_second": 1_000_000,
        "p50_us": 1.0,
        "p99_us": 1.0,
    }


def test_no_hosts_take_nothing() -> None:
    decisions, _ = run([], ["0,,r1,a,1,1,"])
    assert decisions == [
        {"request": "r1", "placed": False, "reason": "there is no host", "refused": {}, "proved": True}
    ]


vms = st.tuples(st.integers(1, 4), st.sampled_from([500, 1000, 1700, 3000]))


@st.composite
def traces(draw: st.DrawFn) -> list[str]:
    rows, time_s, vm = [], 0, count()
    for number in range(draw(st.integers(1, 12))):
        time_s += draw(st.integers(0, 5))
        most = draw(st.sampled_from(["", "1", "2"]))
        for cpus, ram_mb in draw(st.lists(vms, min_size=1, max_size=4)):
            duration = draw(st.sampled_from(["", "0", "3", "10"]))
            rows.append(f"{time_s},{duration},r{number},v{next(vm)},{cpus},{ram_mb},{most}")
    return rows


rooms_of_hosts = st.lists(st.tuples(st.integers(1, 8), st.integers(1000, 9000)), min_size=1, max_size=4)


@given(rooms_of_hosts, traces(), st.sampled_from(Policy))
def test_at_no_time_a_host_has_more_than_it_may(rooms: list[tuple[int, int]], rows: list[str], policy: Policy) -> None:
    hosts = [f"h{number},{cpus},{ram_mb}" for number, (cpus, ram_mb) in enumerate(rooms)]
    decisions, summary = run(hosts, rows, policy)
    arrivals = trace.arrivals([HEADER, *rows], "r")
    assert [decision["request"] for decision in decisions] == [arrival.name for arrival in arrivals]
    changes: defaultdict[str, list[tuple[float, int, int, int]]] = defaultdict(list)
    for decision, arrival in zip(decisions, arrivals, strict=True):
        if not decision["placed"]:
            assert sorted(decision["refused"]) == sorted(f"h{number}" for number in range(len(hosts)))
            assert all(decision["refused"].values())
            continue
        assert sorted(decision["hosts"]) == sorted(arrival.vms)
        most = arrival.requests[0].max_per_host
        assert most is None or max(Counter(decision["hosts"].values()).values()) <= most
        for request, ends_s in zip(arrival.requests, arrival.ends_s, strict=True):
            host = decision["hosts"][request.id]
            changes[host].append((arrival.time_s, 1, request.cpus, request.ram_mb))
            changes[host].append((ends_s, 0, -request.cpus, -request.ram_mb))
    for number, room in enumerate(rooms):
        cpus = ram_mb = 0
        for _, comes, more_cpus, more_ram_mb in sorted(changes[f"h{number}"]):
            cpus, ram_mb = cpus + more_cpus, ram_mb + more_ram_mb
            assert not comes or (cpus <= room[0] and ram_mb <= room[1])
    assert summary.placed + summary.refused == len(arrivals)
