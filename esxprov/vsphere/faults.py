"""What can go wrong with an endpoint, as one table: vSphere's faults, the connection, the certificate.

A fault is looked up by its class and then by its parents (`InsufficientMemoryResourcesFault` is an
`InsufficientResourcesFault`), so the table names families and the exceptions from them.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from xml.parsers.expat import ExpatError

from esxprov.errors import ProvisioningError
from esxprov.model import EndpointConfig
from esxprov.vsphere import tls
from esxprov.vsphere.api import vmodl


@dataclass(frozen=True, slots=True)
class Rule:
    """`text` says what happened and what to do; `of_host` that another host may well do it."""

    code: str
    text: str
    retryable: bool = False
    of_host: bool = False


_NO_ROOM = Rule("no_capacity", "the host has no room for it now; another host may", of_host=True)
_UNREACHABLE_HOST = Rule(
    "host_unavailable", "vCenter has lost its host: look at the host's connection", retryable=True, of_host=True
)
_HOST_NOT_READY = Rule(
    "host_unavailable",
    "its host is not ready for that (in maintenance mode?): end the maintenance, or use another host",
    retryable=True,
    of_host=True,
)
_BUSY = Rule("vsphere_fault", "something else is being done to it just now: try again", retryable=True)
_LOCKED = Rule("vsphere_fault", "a file is locked: a running VM, or a host that died, still holds it", retryable=True)
_UNKNOWN = Rule("vsphere_fault", "vSphere refuses that: see the endpoint's own task list")

RULES: dict[str, Rule] = {
    "InsufficientResourcesFault": _NO_ROOM,
    "NoCompatibleHost": _NO_ROOM,
    "NoDiskSpace": Rule("datastore_full", "the datastore is full: delete something or use another one"),
    "InsufficientStorageSpace": Rule("datastore_full", "the datastore is full: delete something or use another one"),
    "HostCommunication": _UNREACHABLE_HOST,
    "HostConnectFault": _UNREACHABLE_HOST,
    "InvalidHostState": _HOST_NOT_READY,
    "InvalidState": _HOST_NOT_READY,
    "InvalidPowerState": Rule("vsphere_fault", "the VM changed its power state meanwhile: try again", retryable=True),
    "TaskInProgress": _BUSY,
    "ConcurrentAccess": _BUSY,
    "ResourceInUse": _BUSY,
    "Timedout": Rule("vsphere_fault", "vSphere itself ran into a timeout: try again", retryable=True),
    "FileLocked": _LOCKED,
    "CannotAccessFile": Rule(
        "vsphere_fault", "a file cannot be opened: it is in use, or the host may not read it", retryable=True
    ),
    "CannotDeleteFile": Rule(
        "vsphere_fault", "a file cannot be deleted: something that is just ending still holds it", retryable=True
    ),
    "FileNotFound": Rule("vsphere_fault", "a file is missing: is it still where the VM expects it?"),
    "FileAlreadyExists": Rule("image_exists", "the target exists already and is not overwritten"),
    "AlreadyExists": Rule("vsphere_fault", "it exists already, but cannot be found: try again", retryable=True),
    "QuestionPending": Rule("vsphere_fault", "the VM waits for an answer: give it in the vSphere client"),
    "DuplicateName": Rule("vsphere_fault", "another VM has that name there: rename or remove it"),
    "RestrictedVersion": Rule(
        "vsphere_fault",
        "its licence (free ESXi) lets the API only read: license it, or take it out of the pool",
        of_host=True,
    ),
    "HostAccessRestrictedToManagementServer": Rule(
        "vsphere_fault", "it is managed by a vCenter alone: make that vCenter the endpoint", of_host=True
    ),
    "InvalidLogin": Rule("vsphere_auth", "it refuses our user or password: correct them in its [endpoint] section"),
    "PasswordExpired": Rule("vsphere_auth", "the password of our user has expired: set a new one"),
    "NoPermission": Rule("vsphere_auth", "our user lacks the privilege for it: grant it"),
    "NotAuthenticated": Rule("host_unavailable", "it does not keep our session: try again", retryable=True),
    "ManagedObjectNotFound": Rule(
        "vsphere_fault", "an object was removed or registered anew meanwhile: try again", retryable=True
    ),
    "RequestCanceled": Rule("vsphere_fault", "somebody cancelled the task"),
    "InvalidRequest": Rule("vsphere_fault", "it does not speak vSphere API 6.5: is it older than that?"),
}

FOREIGN = (vmodl.MethodFault, OSError, http.client.HTTPException, ExpatError, tls.UnusableAuthority)
"""Everything that pyVmomi and the HTTP client raise: OSError covers sockets, timeouts and TLS."""


def name_of(fault: BaseException) -> str:
    """`FileNotFound` for vim.fault.FileNotFound."""
    return type(fault).__name__.rpartition(".")[2]


def rule_of(fault: BaseException) -> Rule:
    """The first rule for the fault's class or its parents, nearest first."""
    if any("lock" in str(getattr(message, "key", "")) for message in getattr(fault, "faultMessage", None) or ()):
        # Power-on of a VM whose disk is held elsewhere is a GenericVmConfigFault; only its messages tell.
        return _LOCKED
    for parent in type(fault).__mro__:
        rule = RULES.get(parent.__name__.rpartition(".")[2])
        if rule is not None:
            return rule
    return _UNKNOWN


def translate(error: BaseException, config: EndpointConfig, doing: str, host: str | None = None) -> ProvisioningError:
    """The ProvisioningError for a foreign exception while trying `doing` ("switch vm1 on"); `host` is whose fault
    it is if the fault is a host's.
    """
    if isinstance(error, vmodl.MethodFault):
        return _of_fault(error, config, doing, host)
    detail = {"fault": type(error).__name__, "endpoint": config.name}
    untrusted = tls.explain(error) if isinstance(error, ssl.SSLError) else None
    if untrusted is None and isinstance(error, tls.UnusableAuthority):
        untrusted = f"{error}: correct it"
    if untrusted is not None:
        message = f"{config.name}: could not {doing} at {config.url}: {untrusted}"
        return ProvisioningError("vsphere_auth", message, detail=detail)
    if isinstance(error, http.client.HTTPException) and str(error).startswith("4"):
        message = f"{config.name}: could not {doing}: {config.url} answers {error}: is that url right?"
        return ProvisioningError("vsphere_fault", message, detail=detail)
    message = f"{config.name}: could not {doing}: {config.url} {_silence(error, config)}"
    return ProvisioningError("host_unavailable", message, retryable=True, detail=detail)


def _of_fault(fault: vmodl.MethodFault, config: EndpointConfig, doing: str, host: str | None) -> ProvisioningError:
    rule = rule_of(fault)
    name = name_of(fault)
    subject = getattr(fault, "file", None) or getattr(fault, "privilegeId", None)
    said = _plain(getattr(fault, "msg", None))
    more = "; ".join([name, *([str(subject)] if subject else []), *([said] if said else [])])
    return ProvisioningError(
        rule.code,
        f"{config.name}: could not {doing}: {rule.text} ({more})",
        retryable=rule.retryable,
        detail={
            "fault": name,
            "endpoint": config.name,
            **({"message": said} if said else {}),
            **({"locked": True} if rule is _LOCKED else {}),
        },
        host=host if rule.of_host else None,
    )


def _silence(error: BaseException, config: EndpointConfig) -> str:
    if isinstance(error, TimeoutError):
        return f"did not answer within {config.timeout_s:g} s: is the host alive?"
    if isinstance(error, socket.gaierror):
        return "has a name that cannot be resolved: correct url, or the DNS"
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections: is the management service running?"
    if isinstance(error, ExpatError):
        return "answered something that is not SOAP: is that url right?"
    if isinstance(error, http.client.HTTPException) and str(error).startswith("503"):
        return "answers 503: it is overloaded or out of sessions, give it a moment"
    return f"broke the connection ({type(error).__name__}: {_plain(str(error))}): is the host alive?"


def _plain(text: str | None) -> str:
    return " ".join((text or "").split())[:300]


@contextmanager
def translated(config: EndpointConfig, doing: str, host: str | None = None) -> Iterator[None]:
    """Whatever foreign is raised inside becomes a ProvisioningError; our own exceptions pass."""
    try:
        yield
    except FOREIGN as error:
        raise translate(error, config, doing, host) from error
