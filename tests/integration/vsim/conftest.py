"""Servers, and clients logged in to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.vsim.rig import Bed, Client
from tests.testbed.certificates import Certificates
from tests.testbed.vsphere import HostSpec, VSphere


@pytest.fixture(scope="session")
def pki(certificates: Certificates) -> dict[str, Path]:
    """A private CA and a server certificate for 127.0.0.1."""
    served = certificates.server("vsim")
    return {"certificate": served.certificate, "key": served.key, "ca": certificates.ca}


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path / "nfs1")


@pytest.fixture
def start(tmp_path: Path, bed: Bed, pki: dict[str, Path]) -> Iterator[Callable[..., VSphere]]:
    """Starts ESXi hosts (`start("esx1", ...)`) and vCenters (`start(hosts=[...], ...)`) that share the bed."""
    running: list[VSphere] = []

    def run(name: str = "", *arguments: int, hosts: list[HostSpec] | None = None, **options: Any) -> VSphere:
        home = options.pop("home", tmp_path / f"server{len(running)}")
        given: Any = {"datastores": {"nfs1": bed.path}} | pki | options
        if hosts is None:
            running.append(VSphere.start_esxi(home, name, *arguments, **given))
        else:
            running.append(VSphere.start_vcenter(home, hosts, **given))
        return running[-1]

    yield run
    for server in running:
        server.stop()


@pytest.fixture
def esx(start: Callable[..., VSphere]) -> Client:
    return Client(start("esx1", 4096))


@pytest.fixture
def vcenter(start: Callable[..., VSphere]) -> Client:
    hosts = [HostSpec("h1", 8192, 8, 2000), HostSpec("h2", 4096)]
    return Client(start(hosts=hosts, cluster="C1"))


@pytest.fixture(params=["esx", "vcenter"])
def client(request: pytest.FixtureRequest) -> Client:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Client)
    return found
