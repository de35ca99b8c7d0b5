"""The table from foreign exceptions to ProvisioningErrors."""

from __future__ import annotations

import http.client
import socket
import ssl
from pathlib import Path
from xml.parsers.expat import ExpatError

import pytest

from esxprov.model import EndpointConfig
from esxprov.vsphere import faults, tls
from esxprov.vsphere.api import vim, vmodl

CONFIG = EndpointConfig("esx1", "https://esx1.example/sdk", "svc", "s3cret", Path("/etc/ca.pem"), timeout_s=7)
HOST = "esx1/ha-host"


@pytest.mark.parametrize(
    ("fault", "code", "retryable", "of_host"),
    [
        (vim.fault.InsufficientMemoryResourcesFault(), "no_capacity", False, True),
        (vim.fault.InsufficientCpuResourcesFault(), "no_capacity", False, True),
        (vim.fault.InsufficientHostCapacityFault(), "no_capacity", False, True),
        (vim.fault.InsufficientFailoverResourcesFault(), "no_capacity", False, True),
        (vim.fault.NoCompatibleHost(), "no_capacity", False, True),
        (vmodl.fault.HostNotConnected(), "host_unavailable", True, True),
        (vmodl.fault.HostNotReachable(), "host_unavailable", True, True),
        (vmodl.fault.HostCommunication(), "host_unavailable", True, True),
        (vim.fault.InvalidState(), "host_unavailable", True, True),
        (vim.fault.InvalidHostState(), "host_unavailable", True, True),
        (vim.fault.InvalidPowerState(), "vsphere_fault", True, False),
        (vim.fault.QuestionPending(), "vsphere_fault", False, False),
        (vim.fault.NoDiskSpace(), "datastore_full", False, False),
        (vim.fault.InsufficientStorageSpace(), "datastore_full", False, False),
        (vim.fault.FileLocked(), "vsphere_fault", True, False),
        (vim.fault.CannotDeleteFile(file="[nfs1] a.vmdk"), "vsphere_fault", True, False),
        (vim.fault.FileNotFound(file="[nfs1] a.vmdk"), "vsphere_fault", False, False),
        (vim.fault.FileAlreadyExists(), "image_exists", False, False),
        (vim.fault.TaskInProgress(), "vsphere_fault", True, False),
        (vim.fault.RestrictedVersion(), "vsphere_fault", False, True),
        (vim.fault.InvalidLogin(), "vsphere_auth", False, False),
        (vim.fault.PasswordExpired(), "vsphere_auth", False, False),
        (vim.fault.NoPermission(privilegeId="VirtualMachine.Interact.PowerOn"), "vsphere_auth", False, False),
        (vim.fault.NotAuthenticated(), "host_unavailable", True, False),
        (vmodl.fault.ManagedObjectNotFound(), "vsphere_fault", True, False),
        (vmodl.fault.SystemError(reason="x"), "vsphere_fault", False, False),
        (vim.fault.GenericVmConfigFault(), "vsphere_fault", False, False),
    ],
    ids=lambda value: faults.name_of(value) if isinstance(value, Exception) else None,
)
def test_fault(fault: Exception, code: str, retryable: bool, of_host: bool) -> None:
    error = faults.translate(fault, CONFIG, "switch vm1 on", HOST)
    assert (error.code, error.retryable, error.host) == (code, retryable, HOST if of_host else None)
    assert error.detail["fault"] == faults.name_of(fault)
    assert error.message.startswith("esx1: could not switch vm1 on: ")


def test_what_the_server_said_is_in_the_message_on_one_line() -> None:
    fault = vim.fault.FileNotFound(file="[nfs1] inuse/vm1/img.vmdk", msg="File was\n not found.")
    message = faults.translate(fault, CONFIG, "switch vm1 on").message
    assert "(FileNotFound; [nfs1] inuse/vm1/img.vmdk; File was not found.)" in message


def test_a_missing_privilege_is_named() -> None:
    fault = vim.fault.NoPermission(privilegeId="Datastore.FileManagement")
    assert "Datastore.FileManagement" in faults.translate(fault, CONFIG, "delete x").message


def test_a_lock_that_is_only_told_in_the_details_of_a_fault_is_a_lock() -> None:
    said = vmodl.LocalizableMessage(key="msg.fileio.lock", message="Failed to lock the file")
    error = faults.translate(vim.fault.GenericVmConfigFault(faultMessage=[said]), CONFIG, "switch vm1 on")
    assert error.retryable
    assert "locked" in error.message


def test_every_rule_names_a_fault_that_exists() -> None:
    for name, rule in faults.RULES.items():
        kind = getattr(vim.fault, name, None) or getattr(vmodl.fault, name)
        assert faults.translate(kind(), CONFIG, "try").code == rule.code


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError("timed out"), "did not answer within 7 s"),
        (ConnectionRefusedError(111, "refused"), "refuses connections"),
        (ConnectionResetError(104, "reset"), "broke the connection"),
        (socket.gaierror(-2, "unknown"), "cannot be resolved"),
        (http.client.RemoteDisconnected("gone"), "broke the connection"),
        (http.client.HTTPException("503 Service Unavailable"), "answers 503"),
        (ssl.SSLEOFError(8, "EOF"), "broke the connection"),
        (ExpatError("no element found"), "not SOAP"),
    ],
)
def test_a_silent_endpoint_is_unavailable_and_worth_another_try(error: Exception, said: str) -> None:
    found = faults.translate(error, CONFIG, "look at the hosts", HOST)
    assert (found.code, found.retryable, found.host) == ("host_unavailable", True, None)
    assert said in found.message
    assert "https://esx1.example/sdk" in found.message


def _refused(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    error.verify_message = "some reason"
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (_refused(10), "has expired"),
        (_refused(9), "not valid yet"),
        (_refused(18), "self-signed"),
        (_refused(20), "authority that ca_file does not hold"),
        (_refused(62), "another name"),
        (_refused(64), "another address"),
        (_refused(77), "some reason"),
        (tls.FingerprintMismatch("AA:BB"), "AA:BB"),
        (tls.UnusableAuthority("its ca_file /x cannot be used"), "ca_file /x"),
    ],
)
def test_a_certificate_is_refused_with_its_reason_and_not_tried_again(error: Exception, said: str) -> None:
    found = faults.translate(error, CONFIG, "look at the hosts")
    assert (found.code, found.retryable) == ("vsphere_auth", False)
    assert said in found.message


def test_a_wrong_url_is_told() -> None:
    found = faults.translate(http.client.HTTPException("404 Not Found"), CONFIG, "look at the hosts")
    assert not found.retryable
    assert "is that url right?" in found.message


def test_our_own_exceptions_pass_untouched() -> None:
    with pytest.raises(KeyError), faults.translated(CONFIG, "try"):
        raise KeyError("ours")


def test_the_password_is_in_no_message() -> None:
    for fault in (vim.fault.InvalidLogin(), TimeoutError()):
        assert "s3cret" not in faults.translate(fault, CONFIG, "look at the hosts").message
