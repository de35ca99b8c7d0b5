"""The running service, real servers around it: what happens to a call whatever dies, stops or comes in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.contract import Phase
from bridge.envelope import Event
from tests.integration.calls import BASE, Following, Slot, call, client
from tests.testbed.audit import leftovers
from tests.testbed.bed import Bed
from tests.testbed.processes import Child
from tests.testbed.tap import Tap


@pytest.fixture
def service(bed: Bed) -> Iterator[Child]:
    """One service, which the test may end."""
    child = bed.service()
    yield child
    child.stop()


@pytest.fixture
def replies(bed: Bed) -> Iterator[Replies]:
    heard = Replies()
    tap = Tap(bed.rabbitmq, heard)
    yield heard
    tap.close()


class Replies:
    """All replies that went over the broker, by the id of their request."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._of: dict[str, list[Event]] = {}

    def __call__(self, at: float, event: Event) -> None:
        if event.phase is Phase.FINISHED and event.causationid:
            with self._changed:
                self._of.setdefault(event.causationid, []).append(event)
                self._changed.notify_all()

    def to(self, request: Event, timeout_s: float = 10) -> list[Event]:
        """At least one, and all so far."""
        with self._changed:
            assert self._changed.wait_for(lambda: request.id in self._of, timeout_s), "no reply was heard"
            return list(self._of[request.id])


def machines(bed: Bed, slot: Slot) -> list[dict[str, Any]]:
    """The computer's VMs on all hosts."""
    return [
        vm | {"endpoint": name}
        for name, server in bed.endpoints.items()
        for vm in server.inventory()["vms"]
        if vm["name"] == slot.name
    ]


def unload(bed: Bed, slot: Slot) -> None:
    reply = call(bed, slot.request("unload", state="deleted"))
    assert reply["outcome"] == "ok", reply
    assert leftovers(bed) == []


# --- the ordinary way ------------------------------------------------------------------------------------------------


def test_a_load_ends_with_a_running_vm_and_its_address(bed: Bed, slot: Slot, service: Child) -> None:
    reply = call(bed, slot.request("load"))
    assert reply["outcome"] == "ok", reply
    (vm,) = machines(bed, slot)
    assert reply["result"]["host"] == vm["endpoint"]
    assert reply["result"]["mac"] == slot.data()["computer"]["private_mac"]
    assert reply["result"]["private_ip"].startswith("10.77.")
    assert reply["result"]["vm_uuid"] == vm["uuid"]
    assert (vm["power"], vm["memory_mb"]) == ("poweredOn", BASE.ram_mb)
    unload(bed, slot)


def test_a_class_that_loads_at_once_is_placed_without_promising_anything_twice(
    bed: Bed, slots: Iterator[Slot], service: Child
) -> None:
    class_of = [next(slots) for _ in range(20)]
    following = [Following(bed, one.request("load")) for one in class_of]
    outcomes = [one.reply()["outcome"] for one in following]
    assert outcomes == ["ok"] * 20
    for name, server in bed.endpoints.items():
        (host,) = server.inventory()["hosts"]
        assert host["used_mb"] <= host["memory_mb"], name
    ends = [Following(bed, one.request("unload", state="deleted")) for one in class_of]
    assert [end.reply()["outcome"] for end in ends] == ["ok"] * 20
    assert leftovers(bed) == []


def test_an_address_that_dhcpd_never_writes_is_asked_of_vmware_tools(bed: Bed, slot: Slot) -> None:
    source = f"dhcpd:{bed.lan.leases}, tools:"
    service = bed.service(ESXPROV_LEASES_SOURCE=source)
    bed.lan.stop_dhcpd()
    try:
        load = Following(bed, slot.request("load"))
        load.wait_for_step("wait_for_address")
        (vm,) = machines(bed, slot)
        bed.endpoints[vm["endpoint"]].set_guest(slot.name, {vm["macs"][0]: ["10.77.200.9"]})
        reply = load.reply()
    finally:
        bed.lan.restart_dhcpd()
    assert reply["outcome"] == "ok", reply
    assert (reply["result"]["private_ip"], reply["result"]["evidence"]) == ("10.77.200.9", "vmware-tools")
    unload(bed, slot)
    service.stop()


# --- the service dies ------------------------------------------------------------------------------------------------

LOAD_STEPS = (
    "find_image", "place", "clear", "copy_disk", "configure", "register", "power_on", "wait_for_address",
)  # fmt: skip


@pytest.mark.parametrize("step", LOAD_STEPS)
def test_a_service_killed_at_any_step_of_a_load_is_followed_by_one_that_ends_it_with_one_vm_and_one_reply(
    bed: Bed, slot: Slot, replies: Replies, step: str
) -> None:
    first = bed.service()
    load = Following(bed, slot.request("load"))
    load.wait_for_step(step)
    first.kill()
    before = [vm["uuid"] for vm in machines(bed, slot)]
    second = bed.service()
    reply = load.reply()
    assert reply["outcome"] == "ok", reply
    (vm,) = machines(bed, slot)
    assert before in ([], [vm["uuid"]])
    assert vm["power"] == "poweredOn"
    assert len(replies.to(load.event)) == 1
    unload(bed, slot)
    second.stop()


@pytest.mark.parametrize("step", ["check", "copy_disk", "verify", "describe", "move", "destroy"])
def test_a_service_killed_at_any_step_of_a_capture_is_followed_by_one_that_leaves_one_whole_image(
    bed: Bed, slot: Slot, replies: Replies, step: str
) -> None:
    first = bed.service()
    for before in ("load", "power_off"):
        assert call(bed, slot.request(before))["outcome"] == "ok"
    name = f"captured-{step}-v1"
    capture = Following(bed, slot.request("capture", image_name=name, state="image"))
    capture.wait_for_step(step)
    first.kill()
    second = bed.service()
    reply = capture.reply()
    assert reply["outcome"] == "ok", reply
    files = sorted(path.name for path in (bed.store / "golden" / name).iterdir())
    assert files == [f"{name}-flat.vmdk", f"{name}.vmdk", f"{name}.vmx", "esxprov.json"]
    assert len(replies.to(capture.event)) == 1
    assert leftovers(bed) == []
    second.stop()


def test_a_service_killed_while_it_removes_a_vm_is_followed_by_one_that_ends_it(
    bed: Bed, slot: Slot, replies: Replies
) -> None:
    first = bed.service()
    assert call(bed, slot.request("load"))["outcome"] == "ok"
    end = Following(bed, slot.request("unload", state="deleted"))
    end.wait_for_step("destroy")
    first.kill()
    second = bed.service()
    assert end.reply()["outcome"] == "ok"
    assert leftovers(bed) == []
    assert len(replies.to(end.event)) == 1
    second.stop()


def test_a_service_that_is_stopped_leaves_at_a_border_and_the_next_one_goes_on_from_there(
    bed: Bed, slot: Slot, replies: Replies
) -> None:
    first = bed.service()
    load = Following(bed, slot.request("load"))
    load.wait_for_step("copy_disk")
    first.stop(timeout_s=20)
    assert not first.is_alive()
    assert "ended" in first.log.read_text().splitlines()[-1]
    second = bed.service()
    assert load.reply()["outcome"] == "ok"
    assert len(machines(bed, slot)) == 1
    assert len(replies.to(load.event)) == 1
    unload(bed, slot)
    second.stop()


def test_a_service_that_was_paused_and_overtaken_changes_nothing_more(bed: Bed, slot: Slot, replies: Replies) -> None:
    paused = bed.service()
    load = Following(bed, slot.request("load"))
    load.wait_for_step("copy_disk")
    paused.pause()
    # What 30 s of silence do to its ownership, at once.
    bed.rows().execute("UPDATE esxprov_event SET owned_until = UTC_TIMESTAMP(6) WHERE id = %s", load.event.id)
    other = bed.service(bed.directory / "other.log")
    assert load.reply()["outcome"] == "ok"
    (vm,) = machines(bed, slot)
    paused.resume()
    paused.wait_for("taken over by another service")
    paused.stop()
    assert [one["uuid"] for one in machines(bed, slot)] == [vm["uuid"]]
    assert len(replies.to(load.event)) == 1
    unload(bed, slot)
    other.stop()


# --- the others die --------------------------------------------------------------------------------------------------


def test_a_broker_that_restarts_during_a_load_gets_the_reply_when_it_is_back(
    bed: Bed, slot: Slot, service: Child
) -> None:
    load = Following(bed, slot.request("load"))
    load.wait_for_step("copy_disk")
    bed.rabbitmq.restart()
    assert load.reply()["outcome"] == "ok"
    unload(bed, slot)


def test_a_database_that_restarts_during_a_load_costs_a_retry(bed: Bed, slot: Slot, service: Child) -> None:
    load = Following(bed, slot.request("load"))
    load.wait_for_step("copy_disk")
    bed.mariadb.kill()
    bed.mariadb.restart()
    assert load.reply()["outcome"] == "ok"
    unload(bed, slot)


# --- one computer, several commands ----------------------------------------------------------------------------------


def test_an_event_that_comes_twice_is_done_once_and_answered_twice_alike(bed: Bed, slot: Slot, service: Child) -> None:
    event = slot.request("load")
    first = call(bed, event)
    registered = [server.calls().get("RegisterVM_Task", 0) for server in bed.endpoints.values()]
    assert call(bed, event) == first
    assert [server.calls().get("RegisterVM_Task", 0) for server in bed.endpoints.values()] == registered
    unload(bed, slot)


def test_whoever_asks_again_while_it_is_under_way_gets_the_reply(bed: Bed, slot: Slot, service: Child) -> None:
    event = slot.request("load")
    with client(bed) as gone:
        gone.send(event)
    service.wait_for("find_image: .*, done")
    reply = call(bed, event)
    assert reply["outcome"] == "ok"
    (vm,) = machines(bed, slot)
    assert vm["uuid"] == reply["result"]["vm_uuid"]
    unload(bed, slot)


def test_an_unload_ends_the_load_it_makes_pointless(bed: Bed, slot: Slot, service: Child) -> None:
    load = Following(bed, slot.request("load"))
    load.wait_for_step("copy_disk")
    end = call(bed, slot.request("unload", state="deleted"))
    assert end["outcome"] == "ok"
    reply = load.reply()
    assert (reply["outcome"], reply["error"]["code"]) == ("cancelled", "cancelled")
    assert "superseded by the newer unload" in reply["error"]["message"]
    assert leftovers(bed) == []


def test_a_cancelled_load_leaves_nothing(bed: Bed, slot: Slot, service: Child) -> None:
    load = Following(bed, slot.request("load"))
    load.wait_for_step("copy_disk")
    with client(bed) as calling:
        calling.cancel(load.event, "the user changed his mind")
    reply = load.reply()
    assert (reply["outcome"], reply["error"]["message"]) == ("cancelled", "cancelled: the user changed his mind")
    assert leftovers(bed) == []


def test_a_cancel_that_is_quicker_than_its_load_is_remembered(bed: Bed, slot: Slot, service: Child) -> None:
    event = slot.request("load")
    with client(bed) as calling:
        calling.cancel(event, "too late")
        assert call(bed, slot.request("power_status"))["error"]["code"] == "vm_not_found"
        assert calling.call(event).data["outcome"] == "cancelled"
    assert leftovers(bed) == []


def test_a_load_that_is_not_done_by_its_deadline_fails_and_leaves_nothing(bed: Bed, slot: Slot, service: Child) -> None:
    bed.lan.stop_dhcpd()
    try:
        reply = call(bed, slot.request("load", timeout_s=6))
    finally:
        bed.lan.restart_dhcpd()
    assert (reply["outcome"], reply["error"]["code"]) == ("failed", "ip_not_seen")
    assert leftovers(bed) == []


# --- hosts that fail -------------------------------------------------------------------------------------------------


def test_a_host_that_refuses_a_vm_that_should_fit_is_left_for_another(bed: Bed, slot: Slot, service: Child) -> None:
    chosen = "esx1"
    bed.endpoints[chosen].inject("PowerOnVM_Task", "task", fault="InsufficientMemoryResourcesFault", count=1)
    for name in ("esx2", "esx3"):
        bed.endpoints[name].set_host(name, maintenance=True)
    load = Following(bed, slot.request("load"))
    load.wait_for_step("power_on")
    for name in ("esx2", "esx3"):
        bed.endpoints[name].set_host(name, maintenance=False)
    reply = load.reply()
    assert reply["outcome"] == "ok", reply
    assert reply["result"]["host"] != chosen
    assert [vm["endpoint"] for vm in machines(bed, slot)] == [reply["result"]["host"]]
    unload(bed, slot)


def test_an_answer_that_is_lost_after_its_effect_makes_no_second_vm(bed: Bed, slot: Slot, service: Child) -> None:
    for server in bed.endpoints.values():
        for method in ("RegisterVM_Task", "PowerOnVM_Task"):
            server.inject(method, "dropafter", count=1)
    try:
        reply = call(bed, slot.request("load"))
    finally:
        for server in bed.endpoints.values():
            server.clear_faults()
    assert reply["outcome"] == "ok", reply
    assert len(machines(bed, slot)) == 1
    unload(bed, slot)


def test_a_vm_on_a_silent_host_is_removed_when_the_host_is_back(bed: Bed, slot: Slot) -> None:
    service = bed.service()
    host = call(bed, slot.request("load"))["result"]["host"]
    silent = bed.endpoints[host]
    silent.inject("*", "http", status=503)
    reply = call(bed, slot.request("unload", state="deleted"))
    assert (reply["outcome"], reply["result"]) == ("ok", {"removed": False, "unreachable": [host]})
    assert [line for line in leftovers(bed) if "to_be_destroyed" in line] != []
    silent.clear_faults()
    service.stop()
    second = bed.service()
    second.wait_for("answers again")
    assert leftovers(bed) == []
    second.stop()
