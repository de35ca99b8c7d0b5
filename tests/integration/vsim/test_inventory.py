"""Hosts, accounts and certificates as the API shows them."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from esxprov.vsphere.api import vim
from tests.integration.vsim.rig import MB, Bed, Client
from tests.testbed import vsphere
from tests.testbed.vsphere import HostSpec, TestbedError, VSphere


def test_a_second_build_returns_the_same_binary_at_once() -> None:
    binary = vsphere.build()
    made = binary.stat().st_mtime_ns
    assert vsphere.build() == binary
    assert binary.stat().st_mtime_ns == made


def test_a_missing_compiler_is_told_with_the_packages_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vsphere, "_LIBRARIES", tmp_path)
    with pytest.raises(TestbedError, match=r"golang-1\.19-go golang-github-vmware-govmomi-dev"):
        vsphere._toolchain()


def test_an_esxi_host_shows_its_name_size_datastore_and_networks(esx: Client) -> None:
    host = esx.all(vim.HostSystem)[0]
    assert (host.name, host.hardware.memorySize, host.summary.hardware.memorySize) == ("esx1", 4096 * MB, 4096 * MB)
    assert (host.summary.hardware.numCpuCores, host.summary.hardware.numCpuThreads) == (32, 64)
    assert host.hardware.cpuInfo.hz == 2_600_000_000
    assert [datastore.name for datastore in host.datastore] == ["nfs1"]
    assert host.datastore[0].summary.accessible
    assert {network.name for network in host.network} == {"VM Network", "Private", "Public"}
    assert esx.content.about.apiType == "HostAgent"
    assert esx.datacenter.name == "ha-datacenter"
    assert [datastore.name for datastore in esx.datacenter.datastore] == ["nfs1"]


def test_two_esxi_hosts_have_different_names_and_uuids_and_see_each_other_s_files(
    start: Callable[..., VSphere], bed: Bed
) -> None:
    first, second = Client(start("esx1")), Client(start("esx2"))
    hosts = [client.all(vim.HostSystem)[0] for client in (first, second)]
    assert [host.name for host in hosts] == ["esx1", "esx2"]
    assert hosts[0].hardware.systemInfo.uuid != hosts[1].hardware.systemInfo.uuid
    first.content.fileManager.MakeDirectory("[nfs1] shared", first.datacenter, False)
    with pytest.raises(vim.fault.FileAlreadyExists):
        second.content.fileManager.MakeDirectory("[nfs1] shared", second.datacenter, False)


def test_a_vcenter_shows_its_cluster_and_hosts(vcenter: Client) -> None:
    cluster = vcenter.all(vim.ClusterComputeResource)[0]
    assert cluster.name == "C1"
    assert {host.name for host in cluster.host} == {"h1", "h2"}
    assert cluster.summary.totalMemory == (8192 + 4096) * MB
    assert vcenter.datacenter.name == "DC0"
    host = vcenter.host("h1")
    assert (host.summary.hardware.cpuMhz, host.summary.hardware.numCpuThreads) == (2000, 16)
    assert {network.name for network in host.network} >= {"Private", "Public"}
    assert len(host.datastore[0].host) == 2


def test_hosts_of_a_vcenter_without_a_cluster_stand_alone(start: Callable[..., VSphere]) -> None:
    client = Client(start(hosts=[HostSpec("h1"), HostSpec("h2")]))
    assert sorted(resource.name for resource in client.all(vim.ComputeResource)) == ["h1", "h2"]


def test_only_the_given_account_gets_in(esx: Client) -> None:
    stranger = Client(esx.server, login=False)
    with pytest.raises(vim.fault.InvalidLogin):
        stranger.content.sessionManager.Login("svc", "wrong")


def test_a_client_that_does_not_know_the_ca_refuses_the_server(esx: Client) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        http.client.HTTPSConnection(esx.server.host, esx.server.port, context=ssl.create_default_context()).request(
            "GET", "/"
        )
