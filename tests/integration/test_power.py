"""Switching a VM on and off by the running service, on all parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.calls import Following, Slot, call
from tests.testbed.audit import leftovers
from tests.testbed.bed import Bed
from tests.testbed.processes import Child
from tests.testbed.vsphere import VSphere


@pytest.fixture
def host(bed: Bed, slot: Slot) -> Iterator[VSphere]:
    """The host of a VM that was just loaded."""
    loader = bed.service()
    reply = call(bed, slot.request("load"))
    assert reply["outcome"] == "ok", reply
    loader.stop()
    yield bed.endpoints[reply["result"]["host"]]
    remover = bed.service()
    assert call(bed, slot.request("unload", state="deleted"))["outcome"] == "ok"
    assert leftovers(bed) == []
    remover.stop()


@pytest.fixture
def service(bed: Bed, host: VSphere) -> Iterator[Child]:
    """Ended before the VM is removed."""
    child = bed.service()
    yield child
    child.stop()


def switched_off(bed: Bed, slot: Slot, **data: Any) -> Any:
    event = slot.request("power_off")
    event.data.update(data)
    reply = call(bed, event)
    assert reply["outcome"] == "ok", reply
    return reply["result"]


def test_a_guest_with_vmware_tools_shuts_down_when_asked(bed: Bed, slot: Slot, host: VSphere, service: Child) -> None:
    host.set_guest(slot.name, tools=True)
    before = host.calls().get("PowerOffVM_Task", 0)
    assert switched_off(bed, slot, shutdown_s=60) == {"state": "off", "how": "guest"}
    assert host.calls().get("PowerOffVM_Task", 0) == before
    assert switched_off(bed, slot, shutdown_s=60) == {"state": "off", "how": "already"}


def test_a_guest_without_vmware_tools_loses_its_power(bed: Bed, slot: Slot, host: VSphere, service: Child) -> None:
    host.set_guest(slot.name, tools=False)
    assert switched_off(bed, slot, shutdown_s=60) == {"state": "off", "how": "hard"}


def test_nobody_is_asked_who_need_not_be(bed: Bed, slot: Slot, host: VSphere, service: Child) -> None:
    before = host.calls().get("ShutdownGuest", 0)
    assert switched_off(bed, slot) == {"state": "off", "how": "hard"}
    assert host.calls().get("ShutdownGuest", 0) == before


@pytest.mark.parametrize("api_call", ["power_on", "power_reset"])
def test_a_service_killed_while_it_waits_for_the_address_is_followed_by_one_that_tells_it(
    bed: Bed, slot: Slot, host: VSphere, service: Child, api_call: str
) -> None:
    if api_call == "power_on":
        switched_off(bed, slot)
    counted = {"power_on": "PowerOnVM_Task", "power_reset": "ResetVM_Task"}[api_call]
    before = host.calls().get(counted, 0)
    bed.lan.stop_dhcpd()
    switched = Following(bed, slot.request(api_call))
    switched.wait_for_step("wait_for_address")
    service.kill()
    bed.lan.restart_dhcpd()
    second = bed.service()
    reply = switched.reply()
    assert reply["outcome"] == "ok", reply
    assert reply["result"]["private_ip"].startswith("10.77.")
    assert host.calls()[counted] == before + 1
    second.stop()
