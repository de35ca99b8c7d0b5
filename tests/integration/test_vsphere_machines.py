"""VMs and disks on our vSphere server: whole lives, lost answers, refusals; on ESXi, on a vCenter, and in a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from esxprov.errors import Cancelled, ProvisioningError
from esxprov.library.reference import Reference
from esxprov.model import AttachedDisk, Condition, Extent, FileEntry, Image, Nic, PowerState, Vm
from esxprov.vmx import MOST_NICS, NicPlan, VmPlan, author
from esxprov.vsphere import Endpoint
from tests.integration.vsim.rig import until
from tests.integration.vsphere_rig import IMAGE, IMAGE_MB, Rig, registered, removed, start, vmx
from tests.testbed import vsphere as testbed
from tests.testbed.certificates import Certificates


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", params=["esxi", "vcenter", "cluster"])
def any_kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authority: Certificates
) -> Iterator[Rig]:
    rig = start(tmp_path_factory.mktemp(request.param), authority, request.param)
    yield rig
    rig.server.stop()


@pytest.fixture
def endpoint(any_kind: Rig) -> Iterator[Endpoint]:
    with any_kind.connected() as connected:
        yield connected


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, authority: Certificates) -> Iterator[Rig]:
    rig = start(tmp_path_factory.mktemp("faulty"), authority, "vcenter")
    yield rig
    rig.server.stop()


@pytest.fixture
def faulty(running: Rig) -> Iterator[Rig]:
    """A vCenter whose faults and host states are taken back after each test."""
    yield running
    running.server.clear_faults()
    running.server.set_host("esx1", state="connected", maintenance=False, memory_mb=16384)


@pytest.fixture
def victim(faulty: Rig) -> Iterator[Endpoint]:
    with faulty.connected() as connected:
        yield connected


@pytest.fixture
def vm(faulty: Rig, victim: Endpoint) -> Iterator[Vm]:
    """A registered VM that is off."""
    made = registered(victim, "vm1")
    yield made
    faulty.server.clear_faults()
    faulty.server.set_host("esx1", state="connected", maintenance=False)
    removed(victim, made)


def unwatched(percent: int) -> None:
    """A progress callback for copies that nobody watches."""


def failure(call: Callable[[], object]) -> ProvisioningError:
    error = refusal(call)
    assert error.message.startswith("e1: could not ")
    assert error.detail["endpoint"] == "e1"
    return error


def refusal(call: Callable[[], object]) -> ProvisioningError:
    with pytest.raises(ProvisioningError) as raised:
        call()
    return raised.value


# --- whole lives -----------------------------------------------------------------------------------------------------


def test_a_vm_lives_from_copy_to_delete(any_kind: Rig, endpoint: Endpoint) -> None:
    directory = "[nfs1] inuse/labvm-017"
    endpoint.make_directory(directory)
    endpoint.make_directory(directory)
    percents: list[int] = []
    endpoint.copy_disk(IMAGE, f"{directory}/unfinished.vmdk", adapter="lsilogic", progress=percents.append)
    endpoint.move_disk(f"{directory}/unfinished.vmdk", f"{directory}/img.vmdk")
    disk = endpoint.disk(f"{directory}/img.vmdk")
    assert disk is not None
    assert (disk.capacity_mb, disk.adapter, disk.parent) == (IMAGE_MB, "lsilogic", None)
    assert endpoint.disk(f"{directory}/unfinished.vmdk") is None

    text = vmx("labvm-017", "img.vmdk")
    endpoint.write_file(f"{directory}/labvm-017.vmx", text)
    assert endpoint.read_file(f"{directory}/labvm-017.vmx") == text
    host = endpoint.hosts()[0]
    assert endpoint.find_vm(f"{directory}/labvm-017.vmx") is None
    vm = endpoint.register(f"{directory}/labvm-017.vmx", "labvm-017", host.key.moid)
    assert (vm.endpoint, vm.name, vm.host_moid, vm.power) == ("e1", "labvm-017", host.key.moid, PowerState.OFF)
    assert (vm.ram_mb, vm.cpus, vm.annotation) == (2048, 2, "made for labvm-017")
    assert endpoint.register(f"{directory}/labvm-017.vmx", "labvm-017", host.key.moid) == vm
    assert endpoint.find_vm(f"{directory}/labvm-017.vmx") == vm
    assert endpoint.disks(vm) == [f"{directory}/img.vmdk"]

    endpoint.power_on(vm)
    endpoint.power_on(vm)
    assert endpoint.power_state(vm) is PowerState.ON
    assert [each.power for each in endpoint.vms()] == [PowerState.ON]
    assert endpoint.hosts()[0].ram_used_mb >= host.ram_used_mb + 2048
    private, public = endpoint.nics(vm)
    assert private == Nic("00:50:56:00:00:aa", "Private")
    assert public.connected_to == "Public"
    assert len(public.mac) == 17

    endpoint.reset(vm)
    endpoint.power_off(vm)
    endpoint.power_off(vm)
    endpoint.reset(vm)
    assert endpoint.power_state(vm) is PowerState.ON
    endpoint.power_off(vm)
    endpoint.unregister(vm)
    endpoint.unregister(vm)
    assert endpoint.power_state(vm) is None
    endpoint.power_off(vm)
    endpoint.delete(directory)
    endpoint.delete(directory)
    assert endpoint.list_directory(directory) is None
    assert not (any_kind.store / "inuse" / "labvm-017").exists()
    assert endpoint.disk(IMAGE) is not None


def test_a_linked_vm_leaves_the_golden_disk_as_it_was(any_kind: Rig, endpoint: Endpoint) -> None:
    golden = any_kind.store / "golden" / "img" / "img-flat.vmdk"
    before = (golden.stat().st_mtime_ns, golden.stat().st_size)
    vm = registered(endpoint, "linked", disk="/vmfs/volumes/nfs1/golden/img/img.vmdk")
    assert endpoint.disks(vm) == [IMAGE]
    endpoint.snapshot_before_first_power_on(vm)
    (redo,) = endpoint.disks(vm)
    assert redo.startswith("[nfs1] inuse/linked/")
    disk = endpoint.disk(redo)
    assert disk is not None
    assert disk.parent is not None
    assert disk.parent.endswith("golden/img/img.vmdk")
    endpoint.power_on(vm)
    removed(endpoint, vm)
    assert (golden.stat().st_mtime_ns, golden.stat().st_size) == before


def test_our_vmx_keeps_redo_disks_out_of_the_library(any_kind: Rig, endpoint: Endpoint) -> None:
    golden = any_kind.store / "golden" / "img"
    before = sorted(path.name for path in golden.iterdir())
    directory = "[nfs1] inuse/authored"
    endpoint.make_directory(directory)
    image = Image(1, "img", min_ram_mb=512)
    plan = VmPlan("authored", image, "/vmfs/volumes/nfs1/golden/img/img.vmdk", "lsilogic", (), "")
    endpoint.write_file(f"{directory}/authored.vmx", author(plan))
    vm = endpoint.register(f"{directory}/authored.vmx", "authored", endpoint.hosts()[0].key.moid)
    endpoint.snapshot_before_first_power_on(vm)
    assert endpoint.disks(vm) == [f"{directory}/img-000001.vmdk"]
    assert sorted(path.name for path in golden.iterdir()) == before
    removed(endpoint, vm)


def test_the_condition_of_a_vm_says_what_a_capture_must_know(endpoint: Endpoint) -> None:
    vm = registered(endpoint, "judged", disk="/vmfs/volumes/nfs1/golden/img/img.vmdk")
    assert endpoint.condition(vm) == Condition(PowerState.OFF, (AttachedDisk(IMAGE, "persistent", "lsilogic"),))
    endpoint.snapshot_before_first_power_on(vm)
    endpoint.power_on(vm)
    redo = AttachedDisk("[nfs1] inuse/judged/img-000001.vmdk", "persistent", "lsilogic")
    assert endpoint.condition(vm) == Condition(PowerState.ON, (redo,), ("esxprov-base",))
    removed(endpoint, vm)
    assert refusal(lambda: endpoint.condition(vm)).code == "vm_not_found"


@pytest.mark.parametrize(
    ("bus", "model", "adapter"),
    [
        ("scsi0", "lsisas1068", "lsilogic"),
        ("scsi0", "pvscsi", "lsilogic"),
        ("scsi0", "buslogic", "buslogic"),
        ("ide0", "", "ide"),
        ("sata0", "", "lsilogic"),
    ],
)
def test_a_disk_has_the_adapter_of_its_controller(endpoint: Endpoint, bus: str, model: str, adapter: str) -> None:
    directory = "[nfs1] inuse/attached"
    endpoint.make_directory(directory)
    text = vmx("attached", IMAGE).replace(b"scsi0", bus.encode()).replace(b'"lsilogic"', f'"{model}"'.encode())
    text = text.replace(b"scsi-hardDisk", b"disk") + f'{bus}:0.mode = "independent-nonpersistent"\n'.encode()
    endpoint.write_file(f"{directory}/attached.vmx", text)
    vm = endpoint.register(f"{directory}/attached.vmx", "attached", endpoint.hosts()[0].key.moid)
    assert endpoint.condition(vm).disks == (AttachedDisk(IMAGE, "independent_nonpersistent", adapter),)
    removed(endpoint, vm)


def test_a_disk_says_what_it_is_made_of(any_kind: Rig, endpoint: Endpoint) -> None:
    disk = endpoint.disk(IMAGE)
    assert disk is not None
    assert disk.thin
    assert disk.extents == (Extent("img-flat.vmdk", IMAGE_MB * 1024 * 1024),)
    entries = {entry.name: entry.size_bytes for entry in endpoint.list_directory("[nfs1] golden/img") or ()}
    assert entries[disk.extents[0].name] == disk.extents[0].size_bytes


def test_a_disk_occupies_what_was_written_to_it(any_kind: Rig, endpoint: Endpoint) -> None:
    testbed.golden_disk(any_kind.store / "golden", "mostly holes", 4096, payload=b"x" * 3 * 1024 * 1024)
    assert endpoint.allocated_mb("[nfs1] golden/mostly holes/mostly holes.vmdk") == 3
    assert endpoint.allocated_mb("[nfs1] golden/mostly holes/none.vmdk") is None
    assert endpoint.allocated_mb("[nfs1] golden/none/none.vmdk") is None
    endpoint.delete("[nfs1] golden/mostly holes")


def test_a_datastore_tells_its_free_space(endpoint: Endpoint) -> None:
    store = endpoint.datastore("nfs1")
    (known,) = endpoint.hosts()[0].datastores
    assert (store.name, store.capacity_mb, store.accessible) == ("nfs1", known.capacity_mb, True)
    assert 0 < store.free_mb <= store.capacity_mb
    assert "no datastore 'nfs2'" in refusal(lambda: endpoint.datastore("nfs2")).message


def test_a_guest_with_vmware_tools_shuts_down_when_it_is_asked(endpoint: Endpoint) -> None:
    vm = registered(endpoint, "polite")
    assert not endpoint.shutdown_guest(vm)
    endpoint.power_on(vm)
    assert endpoint.shutdown_guest(vm)
    until(lambda: endpoint.power_state(vm) is PowerState.OFF)
    removed(endpoint, vm)
    assert refusal(lambda: endpoint.shutdown_guest(vm)).code == "vm_not_found"


def test_a_guest_without_vmware_tools_is_not_waited_for(any_kind: Rig, endpoint: Endpoint) -> None:
    vm = registered(endpoint, "deaf")
    endpoint.power_on(vm)
    any_kind.server.set_guest("deaf", tools=False)
    assert not endpoint.shutdown_guest(vm)
    assert endpoint.power_state(vm) is PowerState.ON
    removed(endpoint, vm)


@pytest.mark.parametrize("moved", [True, False])
def test_a_moved_vm_keeps_its_generated_mac_and_a_copied_one_gets_another(
    any_kind: Rig, endpoint: Endpoint, moved: bool
) -> None:
    vm = registered(endpoint, "asking")
    before = endpoint.nics(vm)
    choices = ("Cancel", "I Moved It", "I Copied It")
    any_kind.server.set_question("asking", "Moved or copied?", choices, message="msg.uuid.altered", at_power_on=True)
    endpoint.power_on(vm, moved=moved)
    assert endpoint.power_state(vm) is PowerState.ON
    after = endpoint.nics(vm)
    assert after[0] == before[0]
    assert (after[1] == before[1]) is moved
    removed(endpoint, vm)


def test_an_open_question_is_part_of_the_condition_and_stops_a_power_on(any_kind: Rig, endpoint: Endpoint) -> None:
    vm = registered(endpoint, "stuck")
    any_kind.server.set_question("stuck", "There is no more space\n for stuck.", ("Cancel", "Retry"))
    assert endpoint.condition(vm).question == "There is no more space for stuck."
    error = refusal(lambda: endpoint.power_on(vm))
    assert error.detail["question"] == "There is no more space for stuck."
    assert endpoint.power_state(vm) is PowerState.OFF
    any_kind.server.answer_question("stuck", "Cancel")
    assert endpoint.condition(vm).question is None
    removed(endpoint, vm)


def test_a_datastore_is_looked_at_and_not_remembered(
    tmp_path_factory: pytest.TempPathFactory, authority: Certificates
) -> None:
    rig = start(tmp_path_factory.mktemp("stale"), authority, "vcenter", capacity_mb=100, stale_space=True)
    try:
        with rig.connected() as endpoint:
            before = endpoint.datastore("nfs1").free_mb
            (rig.store / "filler").write_bytes(b"x" * 10 * 1024 * 1024)
            assert endpoint.hosts()[0].datastores[0].free_mb == before
            assert endpoint.datastore("nfs1").free_mb == before - 10
    finally:
        rig.server.stop()


def test_hosts_have_an_identity_of_their_own(any_kind: Rig, endpoint: Endpoint) -> None:
    now = datetime.now(UTC)
    hosts = endpoint.hosts()
    assert len({host.uuid for host in hosts} - {""}) == len(hosts)
    for host in hosts:
        assert host.booted_at is not None
        assert timedelta(0) <= now - host.booted_at < timedelta(hours=1)
        assert not host.nested
    assert list(endpoint.look().hosts) == hosts


def test_vmware_tools_say_which_addresses_the_guest_has(any_kind: Rig, endpoint: Endpoint) -> None:
    vm = registered(endpoint, "talking")
    assert endpoint.guest_addresses(vm) == []
    mac = endpoint.nics(vm)[0].mac
    any_kind.server.set_guest("talking", {mac.upper(): ["fe80::250:56ff:fe01:11b", "10.77.1.9"]})
    assert endpoint.guest_addresses(vm) == [(mac, "10.77.1.9")]
    removed(endpoint, vm)


def test_a_chain_is_copied_to_a_disk_that_stands_alone(endpoint: Endpoint) -> None:
    vm = registered(endpoint, "chained", disk="/vmfs/volumes/nfs1/golden/img/img.vmdk")
    endpoint.snapshot_before_first_power_on(vm)
    endpoint.make_directory("[nfs1] golden/.new.0123")
    copied = "[nfs1] golden/.new.0123/new.vmdk"
    endpoint.copy_disk(endpoint.disks(vm)[0], copied, adapter="lsilogic", progress=unwatched)
    disk = endpoint.disk(copied)
    assert disk is not None
    assert (disk.parent, disk.capacity_mb) == (None, IMAGE_MB)
    endpoint.move_directory("[nfs1] golden/.new.0123", "[nfs1] golden/new")
    assert endpoint.disk("[nfs1] golden/new/new.vmdk") is not None
    removed(endpoint, vm)
    endpoint.delete("[nfs1] golden/new")


def test_hosts_say_what_they_have(any_kind: Rig, endpoint: Endpoint) -> None:
    hosts = endpoint.hosts()
    assert {host.name for host in hosts} == {each["name"] for each in any_kind.server.inventory()["hosts"]}
    first = hosts[0]
    assert (first.name, first.state, first.maintenance) == ("esx1", "connected", False)
    assert first.ram_mb == 16384
    assert first.cpu_threads >= 8
    assert {"Private", "Public"} <= set(first.networks)
    (store,) = first.datastores
    assert store.name == "nfs1"
    assert store.accessible
    assert 0 < store.free_mb <= store.capacity_mb
    assert first.datacenter is not None
    assert first.cluster in (None, "lab")
    assert len({host.key for host in hosts}) == len(hosts)


def test_names_with_blanks_and_umlauts_and_brackets(endpoint: Endpoint) -> None:
    directory = "[nfs1] my images/Übung [1] & 100%"
    endpoint.make_directory(directory)
    endpoint.write_file(f"{directory}/a b+c.txt", b"x" * 5)
    assert endpoint.read_file(f"{directory}/a b+c.txt") == b"xxxxx"
    assert endpoint.list_directory(directory) == [FileEntry("a b+c.txt", 5, is_directory=False)]
    endpoint.delete(f"{directory}/a b+c.txt")
    assert endpoint.list_directory(directory) == []
    endpoint.delete("[nfs1] my images")


def test_a_directory_is_listed_with_its_directories(endpoint: Endpoint) -> None:
    entries = endpoint.list_directory("[nfs1] golden")
    assert entries is not None
    assert [(entry.name, entry.is_directory) for entry in entries] == [("img", True)]
    files = endpoint.list_directory("[nfs1] golden/img")
    assert files is not None
    assert sum(entry.size_bytes for entry in files) >= IMAGE_MB * 1024 * 1024
    assert endpoint.list_directory("[nfs1] nowhere") is None


def test_what_is_there_is_not_overwritten(endpoint: Endpoint) -> None:
    endpoint.make_directory("[nfs1] golden/other")
    taken = failure(lambda: endpoint.move_directory("[nfs1] golden/other", "[nfs1] golden/img"))
    assert (taken.code, taken.retryable) == ("image_exists", False)
    copied = failure(lambda: endpoint.copy_disk(IMAGE, IMAGE, adapter="lsilogic", progress=unwatched))
    assert copied.code == "image_exists"
    endpoint.delete("[nfs1] golden/other")


def test_a_whole_datastore_is_never_deleted(endpoint: Endpoint) -> None:
    for path in ("[nfs1]", "[nfs1] ", "[nfs1] ."):
        with pytest.raises(ProvisioningError, match=r"datastore|dotted"):
            endpoint.delete(path)
    assert endpoint.disk(IMAGE) is not None


def test_a_datastore_that_is_not_mounted_has_no_vms_but_no_files_either(endpoint: Endpoint) -> None:
    assert endpoint.find_vm("[nfs9] inuse/vm1/vm1.vmx") is None
    with pytest.raises(ProvisioningError, match=r"no datastore 'nfs9'.*nfs1"):
        endpoint.disk("[nfs9] golden/img/img.vmdk")


def test_a_file_that_is_no_descriptor_is_told_from_none(endpoint: Endpoint) -> None:
    endpoint.write_file("[nfs1] golden/img/odd.vmdk", b"\xff" * 100_000)
    with pytest.raises(ProvisioningError, match="not the descriptor"):
        endpoint.disk("[nfs1] golden/img/odd.vmdk")
    assert endpoint.disk("[nfs1] golden/img/none.vmdk") is None
    endpoint.delete("[nfs1] golden/img/odd.vmdk")
    assert endpoint.list_directory("[nfs1] golden/img") is not None


def test_writing_into_no_directory_is_told(endpoint: Endpoint) -> None:
    assert "does the directory exist?" in failure(lambda: endpoint.write_file("[nfs1] no/where.txt", b"x")).message


def test_a_life_needs_few_round_trips(any_kind: Rig, endpoint: Endpoint) -> None:
    endpoint.hosts()
    before = any_kind.server.calls()
    vm = registered(endpoint, "counted")
    endpoint.power_on(vm)
    endpoint.nics(vm)
    removed(endpoint, vm)
    after = any_kind.server.calls()
    made = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    orders = {name: count for name, count in made.items() if name.endswith("_Task")}
    assert orders == {
        "CopyVirtualDisk_Task": 1,
        "RegisterVM_Task": 1,
        "PowerOnVM_Task": 1,
        "PowerOffVM_Task": 1,
        "DeleteDatastoreFile_Task": 1,
    }
    # A task that is done when it is looked at costs one read; one that is not costs four calls more.
    assert sum(made.values()) <= 5 + 5 * 5 + 6, made


# --- hardware --------------------------------------------------------------------------------------------------------


def test_a_vm_with_all_the_hardware_that_an_image_may_have_been_made_on_runs(endpoint: Endpoint) -> None:
    directory = "[nfs1] inuse/hardware"
    endpoint.make_directory(directory)
    endpoint.copy_disk(IMAGE, f"{directory}/img.vmdk", adapter="lsilogic", progress=unwatched)
    plan = VmPlan(
        name="hardware",
        image=Image(1, "img", os="vmwarewin10", os_type="windows", architecture="x86_64"),
        disk="img.vmdk",
        adapter="lsilogic",
        nics=(NicPlan("Private", "00:50:56:00:00:ab"), *(NicPlan("Public", None) for _ in range(MOST_NICS - 1))),
        annotation="made for hardware",
        reference=Reference("windows9-64", "vmxnet3", "pvscsi", 13, "efi", secure_boot=True),
        nested=True,
    )
    endpoint.write_file(f"{directory}/hardware.vmx", author(plan))
    vm = endpoint.register(f"{directory}/hardware.vmx", "hardware", endpoint.hosts()[0].key.moid)
    endpoint.power_on(vm)
    assert [nic.connected_to for nic in endpoint.nics(vm)] == ["Private", *["Public"] * (MOST_NICS - 1)]
    assert endpoint.disks(vm) == [f"{directory}/img.vmdk"]
    removed(endpoint, vm)
    endpoint.delete(directory)


# --- answers that get lost -------------------------------------------------------------------------------------------


def lost(faulty: Rig, method: str, call: Callable[[], object]) -> None:
    """The call takes effect, its answer is lost, and that is worth another try."""
    faulty.server.inject(method, "dropafter", count=1)
    error = failure(call)
    assert (error.code, error.retryable) == ("host_unavailable", True)


def test_registering_again_after_a_lost_answer_finds_the_same_vm(faulty: Rig, victim: Endpoint, vm: Vm) -> None:
    victim.unregister(vm)
    lost(faulty, "RegisterVM_Task", lambda: victim.register(vm.vmx_path, vm.name, vm.host_moid))
    found = victim.register(vm.vmx_path, vm.name, vm.host_moid)
    assert [each["path"] for each in faulty.server.inventory()["vms"]] == [vm.vmx_path]
    victim.unregister(found)


def test_switching_on_again_after_a_lost_answer_is_fine(faulty: Rig, victim: Endpoint, vm: Vm) -> None:
    lost(faulty, "PowerOnVM_Task", lambda: victim.power_on(vm))
    victim.power_on(vm)
    assert victim.power_state(vm) is PowerState.ON


def test_switching_off_and_unregistering_again_after_lost_answers_is_fine(
    faulty: Rig, victim: Endpoint, vm: Vm
) -> None:
    victim.power_on(vm)
    lost(faulty, "PowerOffVM_Task", lambda: victim.power_off(vm))
    victim.power_off(vm)
    lost(faulty, "UnregisterVM", lambda: victim.unregister(vm))
    victim.unregister(vm)
    assert victim.find_vm(vm.vmx_path) is None


def test_files_after_lost_answers(faulty: Rig, victim: Endpoint) -> None:
    lost(faulty, "MakeDirectory", lambda: victim.make_directory("[nfs1] golden/a"))
    victim.make_directory("[nfs1] golden/a")
    lost(faulty, "MoveDatastoreFile_Task", lambda: victim.move_directory("[nfs1] golden/a", "[nfs1] golden/b"))
    victim.move_directory("[nfs1] golden/a", "[nfs1] golden/b")
    victim.copy_disk(IMAGE, "[nfs1] golden/b/1.vmdk", adapter="lsilogic", progress=unwatched)
    move = ("[nfs1] golden/b/1.vmdk", "[nfs1] golden/b/2.vmdk")
    lost(faulty, "MoveVirtualDisk_Task", lambda: victim.move_disk(*move))
    victim.move_disk(*move)
    lost(faulty, "DeleteVirtualDisk_Task", lambda: victim.delete(move[1]))
    victim.delete(move[1])
    lost(faulty, "DeleteDatastoreFile_Task", lambda: victim.delete("[nfs1] golden/b"))
    victim.delete("[nfs1] golden/b")
    assert victim.list_directory("[nfs1] golden/b") is None


def test_a_shutdown_whose_answer_was_lost_can_be_asked_for_again(faulty: Rig, victim: Endpoint, vm: Vm) -> None:
    victim.power_on(vm)
    lost(faulty, "ShutdownGuest", lambda: victim.shutdown_guest(vm))
    until(lambda: victim.power_state(vm) is PowerState.OFF)
    assert not victim.shutdown_guest(vm)


def test_reading_a_condition_and_free_space_gets_over_a_lost_answer(faulty: Rig, victim: Endpoint, vm: Vm) -> None:
    faulty.server.inject("RetrievePropertiesEx", "dropafter", count=1)
    assert victim.condition(vm).power is PowerState.OFF
    faulty.server.inject("RefreshDatastore", "dropafter", count=1)
    assert victim.datastore("nfs1").name == "nfs1"


def test_a_copy_whose_answer_was_lost_is_not_taken_for_done(faulty: Rig, victim: Endpoint) -> None:
    def copy() -> None:
        victim.copy_disk(IMAGE, "[nfs1] golden/img/c.vmdk", adapter="lsilogic", progress=unwatched)

    lost(faulty, "CopyVirtualDisk_Task", copy)
    assert failure(copy).code == "image_exists"
    victim.delete("[nfs1] golden/img/c.vmdk")


def test_a_write_whose_answer_was_lost_is_written_again(faulty: Rig, victim: Endpoint) -> None:
    faulty.server.inject("PUT /folder", "dropafter", count=1)
    victim.write_file("[nfs1] golden/img/note.txt", b"x")
    assert victim.read_file("[nfs1] golden/img/note.txt") == b"x"
    victim.delete("[nfs1] golden/img/note.txt")


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_host_without_room_says_so_and_is_named(faulty: Rig, victim: Endpoint) -> None:
    big = registered(victim, "big", ram_mb=64 * 1024)
    error = failure(lambda: victim.power_on(big))
    assert (error.code, error.host) == ("no_capacity", f"e1/{big.host_moid}")
    assert error.detail["fault"] == "InsufficientMemoryResourcesFault"
    removed(victim, big)


def test_a_host_in_maintenance_is_unavailable_and_named(faulty: Rig, victim: Endpoint, vm: Vm) -> None:
    faulty.server.set_host("esx1", maintenance=True)
    assert victim.hosts()[0].maintenance
    error = failure(lambda: victim.power_on(vm))
    assert (error.code, error.host) == ("host_unavailable", f"e1/{vm.host_moid}")
    assert "maintenance" in error.message


def test_a_host_that_vcenter_lost_is_unavailable_and_named(faulty: Rig, victim: Endpoint, vm: Vm) -> None:
    faulty.server.set_host("esx1", state="notResponding")
    assert victim.hosts()[0].state == "notResponding"
    error = failure(lambda: victim.power_on(vm))
    assert (error.code, error.retryable, error.host) == ("host_unavailable", True, f"e1/{vm.host_moid}")


@pytest.mark.parametrize("kind", ["soap", "task"])
@pytest.mark.parametrize(
    ("fault", "code", "retryable"),
    [
        ("NoCompatibleHost", "no_capacity", False),
        ("InsufficientFailoverResourcesFault", "no_capacity", False),
        ("NoDiskSpace", "datastore_full", False),
        ("FileLocked", "vsphere_fault", True),
        ("RestrictedVersion", "vsphere_fault", False),
    ],
)
def test_a_refused_power_on(
    faulty: Rig, victim: Endpoint, vm: Vm, kind: str, fault: str, code: str, retryable: bool
) -> None:
    faulty.server.inject("PowerOnVM_Task", kind, fault=fault, count=1)
    error = failure(lambda: victim.power_on(vm))
    assert (error.code, error.retryable, error.detail["fault"]) == (code, retryable, fault)


def test_a_missing_disk_is_named(faulty: Rig, victim: Endpoint, vm: Vm) -> None:
    (faulty.store / "inuse" / "vm1" / "img.vmdk").unlink()
    error = failure(lambda: victim.power_on(vm))
    assert (error.code, error.detail["fault"]) == ("vsphere_fault", "FileNotFound")
    assert "[nfs1] inuse/vm1/img.vmdk" in error.message


def test_a_running_vms_disk_is_locked_and_worth_another_try(victim: Endpoint, vm: Vm) -> None:
    victim.power_on(vm)
    error = failure(
        lambda: victim.copy_disk(
            "[nfs1] inuse/vm1/img.vmdk", "[nfs1] inuse/vm1/x.vmdk", adapter="lsilogic", progress=unwatched
        )
    )
    assert error.retryable


def test_a_full_datastore_is_told_while_copying_and_while_writing(faulty: Rig, victim: Endpoint) -> None:
    faulty.server.inject("CopyVirtualDisk_Task", "task", fault="NoDiskSpace", count=1)
    assert (
        failure(lambda: victim.copy_disk(IMAGE, "[nfs1] golden/full.vmdk", adapter="lsilogic", progress=unwatched)).code
        == "datastore_full"
    )
    faulty.server.inject("PUT /folder", "http", status=507, count=1)
    assert failure(lambda: victim.write_file("[nfs1] golden/full.txt", b"x")).code == "datastore_full"


def test_a_vm_that_is_gone_is_not_found(victim: Endpoint, vm: Vm) -> None:
    victim.unregister(vm)
    calls: list[Callable[[Vm], object]] = [
        victim.power_on,
        victim.reset,
        victim.nics,
        victim.disks,
        victim.snapshot_before_first_power_on,
    ]
    for call in calls:
        with pytest.raises(ProvisioningError, match="not registered on e1 any more") as raised:
            call(vm)
        assert raised.value.code == "vm_not_found"


def test_a_host_that_is_gone_is_unavailable(victim: Endpoint, vm: Vm) -> None:
    with pytest.raises(ProvisioningError, match="no host host-999") as raised:
        victim.register(vm.vmx_path, vm.name, "host-999")
    assert raised.value.code == "host_unavailable"


# --- tasks that take their time --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, authority: Certificates) -> Iterator[Rig]:
    rig = start(tmp_path_factory.mktemp("slow"), authority, "esxi", task_ms=1000)
    yield rig
    rig.server.stop()


def test_a_long_copy_tells_how_far_it_is(slow: Rig) -> None:
    percents: list[int] = []
    with slow.connected() as endpoint:
        endpoint.copy_disk(IMAGE, "[nfs1] golden/img/told.vmdk", adapter="lsilogic", progress=percents.append)
    assert percents == sorted(percents)
    assert any(0 < percent < 100 for percent in percents)


def test_a_copy_that_is_given_up_is_cancelled_before_its_error_is_passed_on(slow: Rig) -> None:
    def give_up(percent: int) -> None:
        if percent > 0:
            raise Cancelled("enough")

    target = "[nfs1] golden/img/given-up.vmdk"
    with slow.connected() as endpoint:
        with pytest.raises(Cancelled):
            endpoint.copy_disk(IMAGE, target, adapter="lsilogic", progress=give_up)
        assert endpoint.disk(target) is None
    assert slow.server.calls()["CancelTask"] == 1


def test_a_password_that_is_changed_in_mid_copy_is_told_and_the_copy_runs_on(
    tmp_path_factory: pytest.TempPathFactory, authority: Certificates
) -> None:
    rig = start(tmp_path_factory.mktemp("locked out"), authority, "esxi", copy_mb_s=0.001)
    changed: list[int] = []

    def change(percent: int) -> None:
        if not changed:
            changed.append(percent)
            rig.server.set_password("another")
            rig.server.expire_sessions()

    target = "[nfs1] golden/img/alone.vmdk"
    try:
        with rig.connected() as endpoint:
            error = failure(lambda: endpoint.copy_disk(IMAGE, target, adapter="lsilogic", progress=change))
            assert (error.code, error.retryable) == ("vsphere_auth", False)
        with rig.connected() as corrected:

            def is_deleted() -> bool:
                try:
                    corrected.delete(target)
                except ProvisioningError as locked:
                    if locked.detail["fault"] != "FileLocked":
                        raise
                    return False
                return True

            assert not is_deleted()
            rig.server.set_pace(0)
            until(is_deleted)
            assert not (rig.store / "golden" / "img" / "alone-flat.vmdk").exists()
    finally:
        rig.server.stop()


def test_a_session_that_expires_while_a_task_runs_does_not_lose_the_task(slow: Rig) -> None:
    expired: list[int] = []

    def expire(percent: int) -> None:
        if not expired:
            expired.append(percent)
            slow.server.expire_sessions()

    with slow.connected() as endpoint:
        endpoint.copy_disk(IMAGE, "[nfs1] golden/img/survives.vmdk", adapter="lsilogic", progress=expire)
        assert endpoint.disk("[nfs1] golden/img/survives.vmdk") is not None


def test_a_connection_that_is_cut_while_a_task_runs_does_not_lose_the_task(slow: Rig) -> None:
    with slow.connected() as endpoint:
        endpoint.hosts()
        slow.server.inject("WaitForUpdatesEx", "drop", count=1)
        endpoint.copy_disk(IMAGE, "[nfs1] golden/img/cut.vmdk", adapter="lsilogic", progress=unwatched)
        assert endpoint.disk("[nfs1] golden/img/cut.vmdk") is not None
