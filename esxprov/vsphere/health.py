"""What an endpoint says of itself: version, licence, clock, and how long its certificate is good."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from datetime import UTC, datetime

from esxprov.model import Health
from esxprov.vsphere.api import vim, vmodl
from esxprov.vsphere.session import Session

log = logging.getLogger(__name__)


def of(session: Session) -> Health:
    """The certificate comes first: where that is refused, nobody's password is sent."""
    not_after = _not_after(session)
    about = session.content.about
    return Health(str(about.version), str(about.build), _licence(session), _ahead_s(session), not_after)


def _not_after(session: Session) -> datetime | None:
    with (
        socket.create_connection((session.host, session.port), session.config.timeout_s) as plain,
        session.tls.wrap_socket(plain, server_hostname=session.host) as secured,
    ):
        # What was not verified, because it is pinned, Python does not take apart.
        text = (secured.getpeercert() or {}).get("notAfter")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC) if isinstance(text, str) else None


def _ahead_s(session: Session) -> float:
    """Measured against the middle of the question."""
    instance = session.ref(vim.ServiceInstance, "ServiceInstance")
    began = time.time()
    theirs = session.call(instance.CurrentTime, repeatable=True)
    return float(theirs.timestamp()) - (began + time.time()) / 2


def _licence(session: Session) -> str:
    """Only words for people: what it lets us do is tried, not read."""
    try:
        known = session.content.licenseManager.licenses
    except vmodl.MethodFault as error:
        log.debug("the licence of %s cannot be read: %s", session.config.name, error)
        return ""
    return str(known[0].name) if known else ""
