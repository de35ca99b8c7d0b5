"""Hosts that boot from the network: what was theirs comes back, once, whatever dies or is silent meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from esxprov.model import EndpointConfig, PowerState, Vm
from esxprov.vsphere import Endpoint, VSphere
from tests.integration.calls import Following, Slot, call
from tests.integration.conftest import TASK_MS
from tests.testbed import vsphere as testbed
from tests.testbed.audit import leftovers
from tests.testbed.bed import Bed, Plan
from tests.testbed.processes import Child

STATELESS = "esx2"
"""The host that boots from the network; it takes twelve small VMs."""


@pytest.fixture(scope="module", params=["esxi", "vcenter"])
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    is_vcenter = request.param == "vcenter"
    disk = "linked" if is_vcenter else "copy"
    plan = Plan(task_ms=TASK_MS, computers=60, vcenter=is_vcenter, disk=disk)
    with Bed(tmp_path_factory.mktemp(request.param), plan) as bed:
        bed.make_site()
        upgraded = bed.esxprov("db", "upgrade")
        assert upgraded.returncode == 0, upgraded.stderr
        yield bed


@pytest.fixture(scope="module")
def slots(bed: Bed) -> Iterator[Slot]:
    return (Slot(number, bed.site.computers[f"slot{number}"]) for number in range(1, bed.plan.computers + 1))


@pytest.fixture
def service(bed: Bed) -> Iterator[Child]:
    child = bed.service()
    child.wait_for("serves node")
    yield child
    child.stop()


def server(bed: Bed, host: str = STATELESS) -> testbed.VSphere:
    return bed.endpoints["vc1" if bed.plan.vcenter else host]


@contextmanager
def only(bed: Bed, host: str) -> Iterator[None]:
    """The others are in maintenance."""
    others = [spec.name for spec in bed.plan.hosts if spec.name != host]
    for name in others:
        server(bed, name).set_host(name, maintenance=True)
    yield
    for name in others:
        server(bed, name).set_host(name, maintenance=False)


def loaded(bed: Bed, slots: Iterator[Slot], count: int = 1) -> list[Slot]:
    """VMs on the stateless host."""
    chosen = [next(slots) for _ in range(count)]
    with only(bed, STATELESS):
        loads = [Following(bed, slot.request("load")) for slot in chosen]
        replies = [load.reply() for load in loads]
    assert [reply["outcome"] for reply in replies] == ["ok"] * count, replies
    assert {reply["result"]["host"] for reply in replies} == {STATELESS}
    return chosen


def loaded_before(bed: Bed, slots: Iterator[Slot], count: int = 1) -> list[Slot]:
    """As `loaded`, by a service that has ended: nobody sees what happens next."""
    service = bed.service()
    made = loaded(bed, slots, count)
    service.stop()
    return made


def machines(bed: Bed) -> dict[str, tuple[str, str]]:
    """Host and power of every VM by its name; none is there twice."""
    found = [vm for one in bed.endpoints.values() for vm in one.inventory()["vms"]]
    by_name = {vm["name"]: (vm["host"], vm["power"]) for vm in found}
    assert len(by_name) == len(found), found
    return by_name


def on(*slots: Slot) -> dict[str, tuple[str, str]]:
    return {slot.name: (STATELESS, "poweredOn") for slot in slots}


def claims(bed: Bed) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(bed.esxprov("claims", "list", "--json").stdout)
    return [{key: one[key] for key in ("id", "state", "host", "computer_id")} for one in found]


def address(bed: Bed, slot: Slot) -> str | None:
    """What VCL knows."""
    with bed.mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT privateIPaddress AS ip FROM computer WHERE id = %s", (slot.computer_id,))
        row = cursor.fetchone()
    return row["ip"] if row else None


def recover(bed: Bed, *options: str, code: int = 0) -> dict[str, tuple[str, str]]:
    """Outcome and reason by computer, of `esxprov hosts recover`."""
    done = bed.esxprov("hosts", "recover", "--json", *options)
    assert done.returncode == code, done.stdout + done.stderr
    return {row["computer"]: (row["outcome"], row["reason"]) for row in json.loads(done.stdout)}


def outcomes(recovered: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    return {computer: outcome for computer, (outcome, _) in recovered.items()}


def unloaded(bed: Bed, slots: Sequence[Slot]) -> None:
    ends = [Following(bed, slot.request("unload", state="deleted")) for slot in slots]
    assert [end.reply()["outcome"] for end in ends] == ["ok"] * len(slots)
    assert leftovers(bed) == []


def unloaded_by_another(bed: Bed, slots: Sequence[Slot]) -> None:
    """As `unloaded`, by a service that knows no endpoint to be silent."""
    service = bed.service()
    unloaded(bed, slots)
    service.stop()


# --- they come back -------------------------------------------------------------------------------------------------


def test_after_a_boot_that_nobody_saw_what_was_on_runs_again_and_vcl_knows_where(
    bed: Bed, slots: Iterator[Slot]
) -> None:
    before = bed.service()
    first, second, off = running = loaded(bed, slots, 3)
    assert call(bed, off.request("power_off"))["outcome"] == "ok"
    held = claims(bed)
    before.stop()
    bed.restart_host(STATELESS, stateless=True)
    assert machines(bed) == {}
    after = bed.service()
    after.wait_for(f"{off.name} on .* is recovered")
    for slot in (first, second):
        after.wait_for(f"{slot.name} has the address 10.77")
    assert machines(bed) == on(first, second) | {off.name: (STATELESS, "poweredOff")}
    assert claims(bed) == held
    for slot in (first, second):
        known = address(bed, slot)
        assert known is not None
        assert known.startswith("10.77.")
    status = call(bed, first.request("node_status"))["result"]
    assert all(status.values()), status
    unloaded(bed, running)
    after.stop()


def test_a_running_service_sees_the_boot_and_frees_nothing_meanwhile(
    bed: Bed, slots: Iterator[Slot], service: Child
) -> None:
    (slot,) = loaded(bed, slots)
    held = claims(bed)
    bed.restart_host(STATELESS, stateless=True)
    service.wait_for(f"{slot.name} on .* is recovered", timeout_s=75)  # by its turn, every 30 s
    assert (machines(bed), claims(bed)) == (on(slot), held)
    service.wait_for(f"{slot.name} has the address")
    unloaded(bed, [slot])


def test_a_host_that_keeps_its_inventory_has_what_was_on_switched_on(bed: Bed, slots: Iterator[Slot]) -> None:
    (slot,) = loaded_before(bed, slots)
    bed.restart_host(STATELESS)
    assert machines(bed) == {slot.name: (STATELESS, "poweredOff")}
    assert outcomes(recover(bed)) == {slot.name: "recovered"}
    assert machines(bed) == on(slot)
    unloaded_by_another(bed, [slot])


def test_a_dry_run_says_what_would_be_done(bed: Bed, slots: Iterator[Slot]) -> None:
    (slot,) = loaded_before(bed, slots)
    bed.restart_host(STATELESS, stateless=True)
    assert recover(bed, "--dry-run") == {slot.name: ("recover", "its host has forgotten it")}
    assert machines(bed) == {}
    table = bed.esxprov("hosts", "recover").stdout
    assert table.split()[:5] == ["computer", "host", "was", "outcome", "reason"]
    assert f"{slot.name} " in table
    assert recover(bed) == {}
    unloaded_by_another(bed, [slot])


def test_a_vm_that_somebody_has_unregistered_is_brought_back_if_its_host_is_named(
    bed: Bed, slots: Iterator[Slot], service: Child
) -> None:
    (slot,) = loaded(bed, slots)
    with adapter(bed) as endpoint:
        vm = found(endpoint, slot)
        endpoint.power_off(vm)
        endpoint.unregister(vm)
    assert recover(bed) == {}
    assert outcomes(recover(bed, STATELESS)) == {slot.name: "recovered"}
    assert machines(bed) == on(slot)
    wrong = bed.esxprov("hosts", "recover", "esx9")
    assert (wrong.returncode, "there are: esx1, esx2, esx3" in wrong.stderr) == (1, True)
    unloaded(bed, [slot])


@pytest.mark.parametrize("bed", ["vcenter"], indirect=True)
def test_a_host_that_is_added_to_its_vcenter_again_keeps_its_claims(bed: Bed, slots: Iterator[Slot]) -> None:
    (slot,) = loaded_before(bed, slots)
    (before,) = claims(bed)
    server(bed).readd_host(STATELESS)
    again = bed.service()
    again.wait_for(f"is now {STATELESS}, .*, by its uuid")
    (after,) = claims(bed)
    assert after["host"] != before["host"]
    assert (after["id"], after["state"]) == (before["id"], "running")
    assert machines(bed) == on(slot)
    assert call(bed, slot.request("power_status"))["result"] == {"state": "on"}
    unloaded(bed, [slot])
    again.stop()


# --- never twice ----------------------------------------------------------------------------------------------------


@contextmanager
def adapter(bed: Bed, name: str | None = None, at: testbed.VSphere | None = None) -> Iterator[Endpoint]:
    """Somebody's way to an endpoint, past the service."""
    at = at or server(bed)
    config = EndpointConfig("admin", at.url, at.user, at.password, at.ca)
    made = VSphere({"admin": config})
    yield made.endpoint("admin")
    made.close()


def found(endpoint: Endpoint, slot: Slot) -> Vm:
    vm = endpoint.find_vm(f"[nfs1] inuse/{slot.name}/{slot.name}.vmx")
    assert vm is not None
    return vm


def test_a_vm_that_runs_where_nobody_looks_is_not_run_twice(bed: Bed, slots: Iterator[Slot]) -> None:
    (slot,) = loaded_before(bed, slots)
    vmx = f"[nfs1] inuse/{slot.name}/{slot.name}.vmx"
    foreign = testbed.VSphere.start_esxi(
        bed.directory / f"foreign-{slot.name}", "foreign", 16384, 8,
        datastores={"nfs1": bed.store}, certificate=bed._served.certificate, key=bed._served.key,
        ca=bed.certificates.ca, networks=("Private", "Public"),
    )  # fmt: skip
    try:
        bed.restart_host(STATELESS, stateless=True)
        with adapter(bed, at=foreign) as endpoint:
            there = endpoint.register(vmx, slot.name, endpoint.hosts()[0].key.moid)
            endpoint.power_on(there)
            assert recover(bed, code=1) == {slot.name: ("waiting", "its files are locked: does it run elsewhere?")}
            assert machines(bed) == {}
            assert endpoint.power_state(there) is PowerState.ON
            endpoint.power_off(there)
            endpoint.unregister(there)
        assert outcomes(recover(bed)) == {slot.name: "recovered"}
    finally:
        foreign.stop()
    assert machines(bed) == on(slot)
    unloaded_by_another(bed, [slot])


def test_a_vm_that_another_host_of_ours_has_is_left_there_and_its_claim_follows(
    bed: Bed, slots: Iterator[Slot]
) -> None:
    (slot,) = loaded_before(bed, slots)
    bed.restart_host(STATELESS, stateless=True)
    with adapter(bed, at=server(bed, "esx3")) as endpoint:
        host = next(host for host in endpoint.hosts() if host.name == "esx3")
        there = endpoint.register(f"[nfs1] inuse/{slot.name}/{slot.name}.vmx", slot.name, host.key.moid)
        endpoint.power_on(there)
    assert outcomes(recover(bed)) == {slot.name: "moved"}
    service = bed.service()
    service.wait_for("its VM is on .*, not on")
    assert machines(bed) == {slot.name: ("esx3", "poweredOn")}
    unloaded(bed, [slot])
    service.stop()


@pytest.mark.parametrize("bed", ["esxi"], indirect=True)
def test_a_silent_endpoint_does_not_hold_up_the_recovery_of_the_others(bed: Bed, slots: Iterator[Slot]) -> None:
    (slot,) = loaded_before(bed, slots)
    bed.restart_host(STATELESS, stateless=True)
    bed.endpoints["esx3"].inject("*", "http", status=503)
    done = bed.esxprov("hosts", "recover")
    bed.endpoints["esx3"].clear_faults()
    assert done.returncode == 0, done.stderr
    assert "esx3 does not answer" in done.stderr
    assert machines(bed) == on(slot)
    unloaded_by_another(bed, [slot])


def test_what_was_unloaded_while_its_host_was_away_goes_with_all_its_files(bed: Bed, slots: Iterator[Slot]) -> None:
    service = bed.service()
    slot, kept = loaded(bed, slots, 2)
    silence, ends = silenced(bed)
    silence()
    reply = call(bed, slot.request("unload", state="deleted"))
    assert (reply["outcome"], reply["result"]["removed"]) == ("ok", False)
    service.stop()
    ends()
    bed.restart_host(STATELESS, stateless=True)
    service = bed.service()
    service.wait_for(f"{slot.name} is not registered on .* any more: its directory goes")
    service.wait_for(f"{kept.name} on .* is recovered")
    assert machines(bed) == on(kept)
    unloaded(bed, [kept])
    service.stop()


def silenced(bed: Bed) -> tuple[Callable[[], None], Callable[[], None]]:
    """Two functions: the stateless host is silent, and answers again."""
    one = server(bed)
    if bed.plan.vcenter:
        return (
            lambda: one.set_host(STATELESS, state="notResponding"),
            lambda: one.set_host(STATELESS, state="connected"),
        )
    return (lambda: one.inject("*", "http", status=503)), one.clear_faults


def test_a_vm_on_a_host_that_is_lost_is_removed_when_the_host_is_back(bed: Bed, slots: Iterator[Slot]) -> None:
    service = bed.service()
    (slot,) = loaded(bed, slots)
    silence, ends = silenced(bed)
    silence()
    reply = call(bed, slot.request("unload", state="deleted"))
    assert (reply["outcome"], reply["result"]["removed"]) == ("ok", False)
    assert [one["state"] for one in claims(bed)] == ["to_be_destroyed"]
    ends()
    service.stop()
    service = bed.service()
    service.wait_for("answers again and its VM is removed")
    assert leftovers(bed) == []
    service.stop()


# --- whatever dies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["RegisterVM_Task", "PowerOnVM_Task"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_service_killed_in_the_recovery_is_followed_by_one_that_ends_it(
    bed: Bed, slots: Iterator[Slot], method: str, number: int
) -> None:
    running = loaded_before(bed, slots, 2)
    held = claims(bed)
    bed.restart_host(STATELESS, stateless=True)
    before = server(bed).calls().get(method, 0)
    first = bed.service()
    wait_until(lambda: server(bed).calls().get(method, 0) >= before + number)
    first.kill()
    second = bed.service()
    for slot in running:
        second.wait_for(f"{slot.name} has the address")
    assert (machines(bed), claims(bed)) == (on(*running), held)
    unloaded(bed, running)
    second.stop()


def wait_until(is_so: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


@pytest.mark.parametrize("method", ["RegisterVM_Task", "PowerOnVM_Task"])
def test_an_unload_in_the_middle_of_the_recovery_leaves_nothing(bed: Bed, slots: Iterator[Slot], method: str) -> None:
    (slot,) = loaded_before(bed, slots)
    bed.restart_host(STATELESS, stateless=True)
    before = server(bed).calls().get(method, 0)
    again = bed.service()
    wait_until(lambda: server(bed).calls().get(method, 0) > before)
    reply = call(bed, slot.request("unload", state="deleted"))
    assert reply["outcome"] == "ok", reply
    again.wait_for(f"{slot.name} on .* is (lost|waiting|recovered)")
    wait_until(lambda: leftovers(bed) == [])
    again.stop()


def test_answers_that_are_lost_after_their_effect_bring_no_second_vm(bed: Bed, slots: Iterator[Slot]) -> None:
    (slot,) = loaded_before(bed, slots)
    bed.restart_host(STATELESS, stateless=True)
    for method in ("RegisterVM_Task", "PowerOnVM_Task"):
        server(bed).inject(method, "dropafter", count=1)
    for _ in range(3):
        bed.esxprov("hosts", "recover")
    server(bed).clear_faults()
    assert machines(bed) == on(slot)
    assert address(bed, slot) is not None
    unloaded_by_another(bed, [slot])
