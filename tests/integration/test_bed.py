"""What a bed can be given beyond the ordinary: a repository, hosts that lose their power, rows of rarer kinds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from esxprov.config import load
from esxprov.database import Database, VclInventory
from esxprov.model import Profile
from esxprov.vsphere.api import vim
from tests.integration.vsim.rig import Client, wait
from tests.integration.vsphere_rig import vmx
from tests.testbed.bed import DATASTORE, PROFILE, REPOSITORY, REPOSITORY_PATH, Bed, Plan
from tests.testbed.vsphere import HostSpec, golden_disk

HOSTS = (HostSpec("esx1", 8192, 4), HostSpec("esx2", 8192, 4))


@pytest.fixture(scope="module", params=[False, True], ids=["esxi", "vcenter"])
def rare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    plan = Plan(hosts=HOSTS, vcenter=request.param, repository=True, nested=True)
    with Bed(tmp_path_factory.mktemp("rare"), plan) as bed:
        bed.make_site()
        yield bed


def client(bed: Bed, host: str) -> Client:
    return Client(bed.endpoints["vc1" if bed.plan.vcenter else host])


def profile_of(bed: Bed, name: str) -> Profile | None:
    """As the service reads it."""
    database = Database(load(bed.environment()).database)
    try:
        return VclInventory(database).profile(name)
    finally:
        database.close()


def test_the_repository_is_a_datastore_of_every_host_and_named_in_the_profile(rare: Bed) -> None:
    golden_disk(rare.repository, "old", 4)
    for name in ("esx1", "esx2"):
        host = client(rare, name).host(name)
        assert {store.name for store in host.datastore} == {DATASTORE, REPOSITORY}
        assert host.capability.nestedHVSupported
    wait(client(rare, "esx2").copy(f"{REPOSITORY_PATH}/old/old.vmdk", f"[{DATASTORE}] new.vmdk"))
    assert (rare.store / "new-flat.vmdk").exists()
    profile = profile_of(rare, PROFILE)
    assert profile is not None
    assert profile.repository_path == REPOSITORY_PATH


@pytest.mark.parametrize("stateless", [False, True])
def test_a_host_that_lost_its_power_has_its_vms_off_or_none(rare: Bed, stateless: bool) -> None:
    name = "forgotten" if stateless else "kept"
    golden_disk(rare.store / "inuse", name, 4)
    (rare.store / "inuse" / name / "vm.vmx").write_bytes(vmx(name, f"{name}.vmdk"))
    before = client(rare, "esx1")
    vm = before.register(f"[{DATASTORE}] inuse/{name}/vm.vmx", before.host("esx1"))
    wait(vm.PowerOnVM_Task())
    booted = before.host("esx1").runtime.bootTime
    rare.restart_host("esx1", stateless=stateless)
    after = client(rare, "esx1")
    assert after.host("esx1").runtime.bootTime > booted
    vms = [each for each in after.all(vim.VirtualMachine) if each.name == name]
    assert [each.runtime.powerState for each in vms] == ([] if stateless else ["poweredOff"])


def test_a_site_may_have_server_requests_four_networks_and_revisions_under_way(rare: Bed) -> None:
    rows, site = rare.rows(), rare.site
    networks = ("Private", "Public", "Storage", "Lab")
    rows.profile("four", DATASTORE, networks)
    image = site.images["vmwarelinux-base9-v3"]
    made = rows.reservation(site.computers["slot1"], image, site.node_id)
    assert rows.server_request(made.request_id) > 0
    assert rows.revision(image.image_id, "vmwarelinux-base9-v4", 4, production=0, deleted=True).revision_id > 0
    profile = profile_of(rare, "four")
    assert profile is not None
    assert (profile.networks, profile.repository_path) == (networks, "")
