"""What is known of an endpoint without asking it, while others change it, and while it comes and goes."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from esxprov.looks import Looks
from esxprov.model import Host, PowerState
from esxprov.ports import Look
from esxprov.vsphere import Endpoint, VSphere, Watches
from esxprov.vsphere.api import vim
from esxprov.vsphere.inventory import Objects
from esxprov.vsphere.properties import Found
from tests.integration.vsim.rig import Client
from tests.integration.vsphere_rig import Rig, registered, start
from tests.testbed.certificates import Certificates

PATIENCE_S = 20.0
NEVER_S = 3600.0
MANY = 2000


@dataclass
class Watched:
    """A watch on `e1`, and a place where its news are waited for."""

    watches: Watches
    looks: Looks
    news: queue.Queue[str] = field(default_factory=queue.Queue)

    def until(self, true: Callable[[Look | None], bool]) -> Look | None:
        """What is known without asking, as soon as it is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not true(known := self.watches.look("e1")):
            try:
                self.news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"it never came true of {known}")
        return known

    def until_known(self) -> Look:
        known = self.until(lambda known: known is not None and bool(known.hosts))
        assert known is not None
        return known

    def until_silent(self) -> str:
        known = self.until(lambda known: known is not None and known.problem is not None)
        assert known is not None
        return known.problem or ""

    def until_vms(self, **power: PowerState) -> None:
        """Until there are just those VMs, by name, in those states."""
        self.until(lambda known: known is not None and {vm.name: vm.power for vm in known.vms} == power)


@contextmanager
def watching(rig: Rig, poll_s: float = NEVER_S, **changes: Any) -> Iterator[Watched]:
    """Without polls unless `poll_s` is given; `changes` to how the server is reached."""
    config = {"e1": rig.config(**changes)}
    watches = Watches(config, poll_s)
    hypervisors = VSphere(config, watches)
    watched = Watched(watches, Looks(hypervisors, watches=watches))
    watches.on_change(watched.news.put)
    watches.start()
    try:
        yield watched
    finally:
        watches.stop()
        watched.looks.close()
        hypervisors.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["esxi", "vcenter", "cluster"])
def any_rig(request: pytest.FixtureRequest, tmp_path: Path, authority: Certificates) -> Iterator[Rig]:
    rig = start(tmp_path, authority, request.param)
    yield rig
    rig.server.stop()


@pytest.fixture
def rig(tmp_path: Path, authority: Certificates) -> Iterator[Rig]:
    rig = start(tmp_path, authority, "esxi")
    yield rig
    rig.server.stop()


@pytest.fixture
def endpoint(rig: Rig) -> Iterator[Endpoint]:
    """Somebody else's session."""
    with rig.connected() as endpoint:
        yield endpoint


def retrieved(rig: Rig) -> int:
    return rig.server.calls().get("RetrievePropertiesEx", 0)


def without_space(host: Host) -> Host:
    """The disk is also other programs', so between two looks its free space may change."""
    return replace(host, datastores=tuple(replace(store, free_mb=0) for store in host.datastores))


# --- what is told ----------------------------------------------------------------------------------------------------


def test_what_is_known_is_what_a_fresh_look_finds(any_rig: Rig) -> None:
    with any_rig.connected() as other, watching(any_rig) as watched:
        registered(other, "vm1")
        watched.until_vms(vm1=PowerState.OFF)
        known, [fresh] = watched.until_known(), watched.looks.at(["e1"])
        assert {host.key: without_space(host) for host in known.hosts} == {
            host.key: without_space(host) for host in fresh.hosts
        }
        assert (known.vms, known.problem) == (fresh.vms, None)
        assert known.vms[0].host_moid in {host.key.moid for host in known.hosts}


def test_a_reboot_of_a_host_is_seen_by_its_new_boot_time(tmp_path: Path, authority: Certificates) -> None:
    rig = start(tmp_path, authority, "cluster")
    try:
        with rig.connected() as other, watching(rig) as watched:
            vm = registered(other, "vm1")
            other.power_on(vm)
            watched.until_vms(vm1=PowerState.ON)
            before = {host.name: host for host in watched.until_known().hosts}["esx1"]
            rig.server.reboot_host("esx1", stateless=True)
            watched.until_vms()
            watched.until(lambda known: booted_later(known, before))
    finally:
        rig.server.stop()


def booted_later(known: Look | None, before: Host) -> bool:
    assert before.booted_at is not None
    hosts = known.hosts if known is not None else ()
    return any(
        host.key == before.key and host.booted_at is not None and host.booted_at > before.booted_at for host in hosts
    )


def test_a_host_that_was_added_again_is_another_one_with_the_same_uuid(tmp_path: Path, authority: Certificates) -> None:
    rig = start(tmp_path, authority, "cluster")
    try:
        with rig.connected() as other, watching(rig) as watched:
            vm = registered(other, "vm1")
            other.power_on(vm)
            watched.until_vms(vm1=PowerState.ON)
            before = {host.name: host for host in watched.until_known().hosts}["esx1"]
            rig.server.readd_host("esx1")
            watched.until(lambda known: known is not None and before.key not in {host.key for host in known.hosts})
            watched.until_vms(vm1=PowerState.ON)
            known = watched.until(lambda known: known is not None and len(known.hosts) == 2)
            assert known is not None
            after = {host.name: host for host in known.hosts}["esx1"]
            assert after.uuid == before.uuid != ""
            assert [(each.host_moid, each.moid == vm.moid) for each in known.vms] == [(after.key.moid, False)]
    finally:
        rig.server.stop()


def test_what_others_do_to_vms_is_seen_without_asking(any_rig: Rig) -> None:
    with any_rig.connected() as other, watching(any_rig) as watched:
        watched.until_vms()
        vm = registered(other, "vm1")
        watched.until_vms(vm1=PowerState.OFF)
        other.power_on(vm)
        watched.until_vms(vm1=PowerState.ON)
        other.power_off(vm)
        watched.until_vms(vm1=PowerState.OFF)
        other.unregister(vm)
        watched.until_vms()


def test_a_vm_that_moves_to_another_host_is_seen_there(tmp_path: Path, authority: Certificates) -> None:
    rig = start(tmp_path, authority, "cluster")
    try:
        with rig.connected() as other, watching(rig) as watched:
            vm = registered(other, "vm1")
            target = next(host.key.moid for host in other.hosts() if host.key.moid != vm.host_moid)
            other.unregister(vm)
            other.register(vm.vmx_path, vm.name, target)
            watched.until(lambda known: known is not None and [vm.host_moid for vm in known.vms] == [target])
    finally:
        rig.server.stop()


def test_a_host_in_maintenance_or_lost_is_seen_without_asking(any_rig: Rig) -> None:
    with watching(any_rig) as watched:
        watched.until_known()
        any_rig.server.set_host("esx1", maintenance=True)
        watched.until(lambda known: known is not None and any(host.maintenance for host in known.hosts))
        any_rig.server.set_host("esx1", state="notResponding")
        watched.until(lambda known: known is not None and any(host.state == "notResponding" for host in known.hosts))


def test_a_listener_that_fails_does_not_end_the_watch(rig: Rig, endpoint: Endpoint) -> None:
    def fails(endpoint: str) -> None:
        raise RuntimeError(endpoint)

    with watching(rig) as watched:
        watched.watches.on_change(fails)
        registered(endpoint, "vm1")
        watched.until_vms(vm1=PowerState.OFF)


# --- what is not told ------------------------------------------------------------------------------------------------


def mounted(rig: Rig, directory: Path) -> Callable[[Look | None], bool]:
    """Give the host another datastore, of which the server tells nobody; returns whether it is known."""
    directory.mkdir()
    host = Client(rig.server).all(vim.HostSystem)[0]
    host.configManager.datastoreSystem.CreateLocalDatastore("more", str(directory))
    return lambda known: known is not None and "more" in {store.name for store in known.hosts[0].datastores}


def test_what_is_not_told_is_known_after_the_next_poll(rig: Rig, tmp_path: Path) -> None:
    with watching(rig, poll_s=1) as watched:
        watched.until_known()
        watched.until(mounted(rig, tmp_path / "more"))


def test_what_is_not_told_is_known_after_anybodys_fresh_look(rig: Rig, tmp_path: Path) -> None:
    with watching(rig) as watched:
        watched.until_known()
        is_known = mounted(rig, tmp_path / "more")
        assert not is_known(watched.watches.look("e1"))
        assert is_known(watched.looks.at(["e1"])[0])
        assert is_known(watched.watches.look("e1"))


# --- asking ----------------------------------------------------------------------------------------------------------


def test_a_recent_look_at_what_is_watched_asks_nobody(rig: Rig) -> None:
    with watching(rig) as watched:
        known = watched.until_known()
        before = retrieved(rig)
        looks = [watched.looks.at(["e1"], recent=True)[0] for _ in range(5)]
        assert [look.hosts for look in looks] == [known.hosts] * 5
        assert retrieved(rig) == before
        assert looks[0].age_s(time.monotonic()) < PATIENCE_S


def test_before_anything_is_known_the_endpoint_is_asked(rig: Rig) -> None:
    config = {"e1": rig.config()}
    watches = Watches(config)  # not started
    hypervisors = VSphere(config, watches)
    looks = Looks(hypervisors, watches=watches)
    assert [host.name for host in looks.at(["e1"], recent=True)[0].hosts] == ["esx1"]
    looks.close()
    hypervisors.close()


# --- trouble ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["InvalidCollectorVersion", ""], ids=["refused", "cut"])
def test_a_lost_stream_is_begun_anew_and_leaves_no_session_behind(rig: Rig, endpoint: Endpoint, fault: str) -> None:
    with watching(rig) as watched:
        watched.until_known()
        vm = registered(endpoint, "vm1")
        watched.until_vms(vm1=PowerState.OFF)
        rig.server.inject("WaitForUpdatesEx", "soap" if fault else "drop", fault=fault, count=1)
        endpoint.power_on(vm)
        watched.until_vms(vm1=PowerState.ON)
        endpoint.power_off(vm)
        watched.until_vms(vm1=PowerState.OFF)
        assert rig.server.calls()["CreatePropertyCollector"] >= 2
        assert rig.server.sessions() == 2  # somebody else's is one


def test_a_session_that_the_server_has_ended_is_begun_anew(rig: Rig, endpoint: Endpoint) -> None:
    with watching(rig) as watched:
        watched.until_vms()
        rig.server.expire_sessions()
        vm = registered(endpoint, "vm1")
        watched.until_vms(vm1=PowerState.OFF)
        rig.server.expire_sessions()
        endpoint.unregister(vm)
        watched.until_vms()


def test_a_server_that_is_gone_is_known_to_be_silent_until_it_is_back(
    tmp_path: Path, authority: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "esxprov.vsphere.watch")
    rig = start(tmp_path, authority, "esxi")
    with watching(rig) as watched:
        with rig.connected() as other:
            other.power_on(registered(other, "vm1"))
        watched.until_vms(vm1=PowerState.ON)
        rig.server.kill()
        assert watched.until_silent()
        assert [look.hosts for look in watched.looks.at(["e1"], recent=True)] == [()]
        assert "refuses connections" in (watched.looks.at(["e1"])[0].problem or "")
        again = start(tmp_path, authority, "esxi", port=rig.server.port)
        try:
            watched.until_vms(vm1=PowerState.OFF)
            said = [record.getMessage() for record in caplog.records]
            assert [line.split(": ")[0].split(" after")[0] for line in said] == [
                "e1 is left out until it answers",
                "e1 answers again",
            ]
            with again.connected() as other:
                registered(other, "vm2")
            watched.until_vms(vm1=PowerState.OFF, vm2=PowerState.OFF)
        finally:
            again.server.stop()


def test_a_server_that_hangs_is_known_to_be_silent_until_it_is_back(rig: Rig, endpoint: Endpoint) -> None:
    with watching(rig) as watched:
        watched.until_known()
        rig.server.pause()
        assert "did not answer within 2 s" in watched.until_silent()
        rig.server.resume()
        registered(endpoint, "vm1")
        watched.until_vms(vm1=PowerState.OFF)


def test_a_fresh_look_that_is_answered_ends_the_silence_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esxprov.vsphere.watch.PAUSES_S", (NEVER_S,))
    rig.server.inject("CreatePropertyCollector", "http", status=503, count=1)
    with watching(rig) as watched:
        assert "503" in watched.until_silent()
        assert watched.looks.at(["e1"])[0].problem is None
        assert watched.until_known().hosts
        rig.server.set_host("esx1", maintenance=True)  # told only if the stream was begun, too
        watched.until(lambda known: known is not None and known.hosts[0].maintenance)


def test_a_refused_password_is_not_tried_until_the_account_is_locked(rig: Rig) -> None:
    with watching(rig, password="wrong") as watched:
        assert "user or password" in watched.until_silent()
        assert rig.server.calls()["Login"] == 1


@pytest.mark.parametrize("paused", [False, True], ids=["alive", "hanging"])
def test_the_end_does_not_wait_for_what_is_held_back(rig: Rig, paused: bool) -> None:
    config = {"e1": rig.config(timeout_s=60)}
    watches = Watches(config)
    known = threading.Event()
    watches.on_change(lambda _: known.set())
    watches.start()
    assert known.wait(PATIENCE_S)
    if paused:
        rig.server.pause()
    began = time.monotonic()
    watches.stop()
    assert time.monotonic() - began < 8
    rig.server.resume()
    if not paused:
        assert rig.server.sessions() == 0


def test_an_endpoint_that_is_not_watched_is_asked() -> None:
    watches = Watches({})
    looks = Looks(VSphere({}, watches), watches=watches)
    assert "[endpoint e1]" in (looks.at(["e1"], recent=True)[0].problem or "")
    looks.close()


# --- many VMs --------------------------------------------------------------------------------------------------------


def crowded(directory: Path, authority: Certificates) -> Rig:
    """A host with many VMs: it comes back from a power cut with all that it is said to have had."""
    rig = start(directory, authority, "esxi")
    rig.server.kill()
    had = []
    for number in range(MANY):
        home = rig.store / "inuse" / f"vm{number}"
        home.mkdir(parents=True)
        (home / "vm.vmx").write_text(f'displayName = "vm{number}"\nmemSize = "64"\n')
        had.append({"path": f"[nfs1] inuse/vm{number}/vm.vmx", "name": f"vm{number}", "host": "esx1", "ran": False})
    (directory / "inventory.json").write_text(json.dumps(had))
    return start(directory, authority, "esxi", port=rig.server.port)


def test_one_change_among_many_vms_costs_one_value_and_no_question(
    tmp_path: Path, authority: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = crowded(tmp_path, authority)
    made: Counter[str] = Counter()
    make = Objects.vm

    def counting(self: Objects, found: Found) -> Any:
        made[found.moid] += 1
        return make(self, found)

    try:
        with rig.connected(timeout_s=20) as other, watching(rig, timeout_s=20) as watched:
            known = watched.until_known()
            assert len(known.vms) == MANY
            polls = retrieved(rig)
            monkeypatch.setattr(Objects, "vm", counting)
            other.unregister(known.vms[7])
            watched.until(lambda now: now is not None and known.vms[7] not in now.vms)
            assert made == Counter()
            assert retrieved(rig) == polls
            other.power_on(known.vms[8])
            watched.until(lambda now: now is not None and known.vms[8] not in now.vms)
            assert made == Counter([known.vms[8].moid])
    finally:
        rig.server.stop()
