"""Certificates, silence, sessions: what happens between us and an endpoint before anything is asked of it."""

from __future__ import annotations

import hashlib
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esxprov.errors import ProvisioningError
from esxprov.vsphere import VSphere
from tests.integration.vsphere_rig import IMAGE, Rig, start
from tests.testbed.certificates import Certificates


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, authority: Certificates) -> Iterator[Rig]:
    rig = start(tmp_path_factory.mktemp("esxi"), authority, "esxi")
    yield rig
    rig.server.stop()


@pytest.fixture
def rig(running: Rig) -> Iterator[Rig]:
    yield running
    running.server.resume()
    running.server.clear_faults()


def fingerprint(certificate: Path) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


@contextmanager
def serving(directory: Path, authority: Certificates, certificate: tuple[Path, Path]) -> Iterator[Rig]:
    """A server with that certificate, for one test."""
    rig = start(directory, authority, "esxi", certificate=certificate)
    try:
        yield rig
    finally:
        rig.server.stop()


def refused(rig: Rig, **changes: object) -> ProvisioningError:
    """What the first call gets; it is written so that an admin can act on it, so it names the endpoint and the url."""
    with rig.connected(**changes) as endpoint, pytest.raises(ProvisioningError) as raised:
        endpoint.hosts()
    assert raised.value.message.startswith("e1: could not look at the hosts")
    return raised.value


# --- certificates ----------------------------------------------------------------------------------------------------


def test_a_certificate_of_the_right_authority_is_trusted(rig: Rig) -> None:
    with rig.connected() as endpoint:
        assert [host.name for host in endpoint.hosts()] == ["esx1"]


def test_an_authority_that_is_not_ours_is_refused(rig: Rig, tmp_path: Path) -> None:
    error = refused(rig, ca_file=Certificates(tmp_path / "other", "other authority").ca)
    assert (error.code, error.retryable) == ("vsphere_auth", False)
    assert "authority" in error.message


def test_loopback_is_verified_like_any_other_address(rig: Rig) -> None:
    error = refused(rig, ca_file=None)
    assert error.code == "vsphere_auth"


@pytest.mark.parametrize(
    ("name", "address", "days", "said"),
    [
        ("expired", "IP:127.0.0.1", -1, "has expired"),
        ("wrong-address", "IP:127.9.9.9", 30, "another address"),
    ],
)
def test_a_bad_certificate_is_refused_with_its_reason(
    tmp_path: Path, authority: Certificates, name: str, address: str, days: int, said: str
) -> None:
    with serving(tmp_path, authority, authority.issue(name, names=address, days=days)) as rig:
        error = refused(rig)
    assert (error.code, error.retryable) == ("vsphere_auth", False)
    assert said in error.message


def test_a_certificate_for_another_name_is_refused(tmp_path: Path, authority: Certificates) -> None:
    with serving(tmp_path, authority, authority.issue("wrong-name", names="DNS:esx9.example")) as rig:
        error = refused(rig, url=f"https://localhost:{rig.server.port}/sdk")
    assert "another name" in error.message


def test_the_pinned_certificate_is_trusted_whoever_issued_it(rig: Rig) -> None:
    pin = fingerprint(rig.certificate)
    with rig.connected(ca_file=None, thumbprint=pin) as endpoint:
        assert endpoint.disk(IMAGE) is not None
    with rig.connected(ca_file=None, thumbprint=":".join(pin[i : i + 2] for i in range(0, 64, 2)).upper()) as endpoint:
        assert endpoint.vms() == []


def test_another_certificate_than_the_pinned_one_is_refused_and_shown(rig: Rig) -> None:
    error = refused(rig, ca_file=None, thumbprint="00" * 32)
    assert (error.code, error.retryable) == ("vsphere_auth", False)
    assert fingerprint(rig.certificate) in error.message.replace(":", "").lower()


def test_a_pin_counts_even_if_the_authority_is_trusted(rig: Rig) -> None:
    assert refused(rig, thumbprint="00" * 32).code == "vsphere_auth"


def test_a_ca_file_that_is_not_there_is_named(rig: Rig, tmp_path: Path) -> None:
    error = refused(rig, ca_file=tmp_path / "gone.pem")
    assert error.code == "vsphere_auth"
    assert "gone.pem" in error.message


def test_health_tells_the_version_the_clock_and_until_when_the_certificate_is_good(rig: Rig) -> None:
    rig.server.set_clock(-120)
    with rig.connected() as endpoint:
        health = endpoint.health()
    rig.server.set_clock(0)
    assert (health.version, health.not_after is not None) == ("6.5.0", True)
    assert -125 < health.clock_ahead_s < -115
    with rig.connected(ca_file=None, thumbprint=fingerprint(rig.certificate)) as endpoint:
        assert endpoint.health().not_after is None


def test_to_an_endpoint_that_is_not_to_be_trusted_no_password_is_sent(rig: Rig) -> None:
    before = rig.server.calls().get("Login", 0)
    with rig.connected(thumbprint="00" * 32) as endpoint, pytest.raises(ProvisioningError) as raised:
        endpoint.health()
    assert raised.value.detail["fault"] == "FingerprintMismatch"
    assert rig.server.calls().get("Login", 0) == before


# --- silence ---------------------------------------------------------------------------------------------------------


def test_a_server_that_hangs_is_given_up_within_the_timeout(rig: Rig) -> None:
    rig.server.pause()
    started = time.monotonic()
    error = refused(rig, timeout_s=1)
    rig.server.resume()
    assert (error.code, error.retryable) == ("host_unavailable", True)
    assert "within 1 s" in error.message
    assert time.monotonic() - started < 4


def test_a_server_that_hangs_later_is_given_up_within_the_timeout(rig: Rig) -> None:
    with rig.connected(timeout_s=1) as endpoint:
        endpoint.hosts()
        rig.server.pause()
        started = time.monotonic()
        for call in (endpoint.hosts, lambda: endpoint.read_file(IMAGE)):
            with pytest.raises(ProvisioningError, match="within 1 s"):
                call()
        assert time.monotonic() - started < 5
        rig.server.resume()
        assert endpoint.hosts()


def test_nobody_listening_is_unavailable(rig: Rig) -> None:
    error = refused(rig, url="https://127.0.0.1:9/sdk")
    assert (error.code, error.retryable) == ("host_unavailable", True)
    assert "https://127.0.0.1:9/sdk refuses connections" in error.message


def test_an_overloaded_server_is_unavailable(rig: Rig) -> None:
    with rig.connected() as endpoint:
        endpoint.hosts()
        rig.server.inject("RetrievePropertiesEx", "http", status=503, count=1)
        with pytest.raises(ProvisioningError, match="answers 503") as raised:
            endpoint.hosts()
        assert (raised.value.code, raised.value.retryable) == ("host_unavailable", True)
        assert endpoint.hosts()


def test_a_wrong_password_is_told_from_a_wrong_certificate(rig: Rig) -> None:
    error = refused(rig, password="not it")
    assert (error.code, error.retryable) == ("vsphere_auth", False)
    assert "user or password" in error.message
    assert "not it" not in error.message


def test_a_question_whose_connection_is_cut_is_asked_again(rig: Rig) -> None:
    with rig.connected() as endpoint:
        endpoint.hosts()
        rig.server.inject("RetrievePropertiesEx", "drop", count=1)
        assert endpoint.hosts()
        rig.server.inject("GET /folder", "drop", count=1)
        assert endpoint.disk(IMAGE) is not None


def test_after_a_power_cut_of_the_server_the_adapter_finds_back(tmp_path: Path, authority: Certificates) -> None:
    rig = start(tmp_path, authority, "esxi")
    with rig.connected() as endpoint:
        endpoint.hosts()
        rig.server.kill()
        with pytest.raises(ProvisioningError, match="e1: could not list the VMs"):
            endpoint.vms()
        again = start(tmp_path, authority, "esxi", port=rig.server.port)
        try:
            assert [host.name for host in endpoint.hosts()] == ["esx1"]
            assert endpoint.disk(IMAGE) is not None
        finally:
            again.server.stop()


# --- sessions --------------------------------------------------------------------------------------------------------


def test_an_expired_session_is_renewed_without_anybody_noticing(rig: Rig) -> None:
    with rig.connected() as endpoint:
        endpoint.hosts()
        for call in (
            endpoint.hosts,
            endpoint.vms,
            lambda: endpoint.disk(IMAGE),
            lambda: endpoint.find_vm("[nfs1] a.vmx"),
        ):
            rig.server.expire_sessions()
            call()
            rig.server.expire_sessions()
            endpoint.make_directory("[nfs1] some")
        assert rig.server.sessions() == 1


def test_a_refused_cookie_of_the_file_side_costs_one_login_and_no_session(rig: Rig) -> None:
    with rig.connected() as endpoint:
        endpoint.hosts()
        rig.server.inject("GET /folder", "http", status=401, count=1)
        assert endpoint.disk(IMAGE) is not None
        assert rig.server.sessions() == 1


def test_a_user_without_rights_on_files_is_told_so(rig: Rig) -> None:
    with rig.connected() as endpoint:
        rig.server.inject("GET /folder", "http", status=401)
        with pytest.raises(ProvisioningError, match=r"Datastore\.Browse") as raised:
            endpoint.disk(IMAGE)
        assert raised.value.code == "vsphere_auth"


def test_each_thread_has_a_session_and_close_ends_all(rig: Rig) -> None:
    vsphere = VSphere({"e1": rig.config()})
    seen = []

    def work() -> None:
        vsphere.endpoint("e1").hosts()
        seen.append(vsphere.endpoint("e1") is vsphere.endpoint("e1"))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 3
    assert rig.server.sessions() == 3
    vsphere.close()
    assert rig.server.sessions() == 0


def test_close_does_not_wait_for_each_session_of_a_silent_endpoint(rig: Rig) -> None:
    vsphere = VSphere({"e1": rig.config(timeout_s=1)})
    threads = [threading.Thread(target=lambda: vsphere.endpoint("e1").hosts()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rig.server.pause()
    started = time.monotonic()
    vsphere.close()
    assert time.monotonic() - started < 3
    rig.server.resume()
    rig.server.expire_sessions()


def test_an_endpoint_that_was_taken_out_of_the_configuration_is_unavailable() -> None:
    with pytest.raises(ProvisioningError, match=r"\[endpoint esx9\]") as raised:
        VSphere({}).endpoint("esx9")
    assert raised.value.code == "host_unavailable"
