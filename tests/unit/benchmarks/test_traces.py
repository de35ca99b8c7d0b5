"""Files of traces as requests."""

from __future__ import annotations

from pathlib import Path

from benchmarks.placement import traces
from benchmarks.placement.huawei import Watched
from benchmarks.placement.rows import Request, Vm


def test_consecutive_rows_of_a_group_come_together_and_anti_affinity_lasts(tmp_path: Path) -> None:
    rows = (
        "seq,flavor_vcpus,flavor_ram,numa,strategy,group,domain",
        "0,1,2,1,,,",
        "1,1,2,1,,,",
        "2,2,4,1,anti-affinity,7.0,",
        "3,2,4,1,anti-affinity,7.0,",
        "4,2,4,1,affinity,7.0,",
        "5,2,4,1,anti-affinity,7.0,",
    )
    (tmp_path / "huawei_C1.csv").write_text("\n".join(rows))
    found = traces.huawei(tmp_path, "C1")
    assert [[vm.name for vm in request.vms] for request in found] == [
        ["C1-0"],
        ["C1-1"],
        ["C1-2", "C1-3"],
        ["C1-4"],
        ["C1-5"],
    ]
    assert [request.max_per_host for request in found] == [None, None, 1, None, 1]
    assert found[2].name == found[4].name != found[3].name
    assert found[2].vms[0] == Vm("C1-2", 2, 4096, None)


def test_hosts_have_what_is_free_on_all_their_nodes(tmp_path: Path) -> None:
    (tmp_path / "huawei_hosts_free.csv").write_text(
        "host,numa0_cpu,numa0_ram_gb,numa1_cpu,numa1_ram_gb\n0,16,32,32,64\n1,16,32,32,64\n"
    )
    [host] = traces.huawei_hosts(tmp_path, 0.5, seed=1)
    assert (host.cpus, host.ram_mb) == (48, 96 * 1024)


class OneHost:
    def place(self, request: Request, now: int) -> dict[str, str]:
        return {vm.name: "h" for vm in request.vms}

    def remove(self, vm: str) -> None:
        pass


def test_vms_of_one_group_on_one_host_are_counted_as_a_broken_rule() -> None:
    watched = Watched(OneHost())
    for name in "abc":
        watched.place(Request("apart", 0, (Vm(name, 1, 1, None),), 1), 0)
    watched.place(Request("free", 0, (Vm("free", 1, 1, None),)), 0)
    assert watched.broken == 2
