"""Small files over HTTPS: the server's /folder, with the session's cookie and the session's verified TLS."""

from __future__ import annotations

import http.client
import time
import urllib.parse

from esxprov.errors import ProvisioningError
from esxprov.vsphere.inventory import Place
from esxprov.vsphere.paths import DatastorePath
from esxprov.vsphere.session import DROPPED, IDLE_S, Session

MOST_BYTES = 1024 * 1024
"""Descriptors, VMX files and manifests are a few KB. What is longer is read up to here."""


class Folder:
    """One kept-alive connection, of the session's thread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._connection: http.client.HTTPSConnection | None = None
        self._used_at = 0.0

    def get(self, path: DatastorePath, place: Place, *, limit: int = MOST_BYTES) -> bytes | None:
        """The first `limit` bytes of a file, None if there is none."""
        status, body = self._request("GET", path, place, None, limit)
        if status == 404:
            return None
        if status not in (200, 206):
            raise self._refused("read", path, status)
        return body

    def put(self, path: DatastorePath, place: Place, content: bytes) -> None:
        """Write the whole file; its directory must exist."""
        status, _ = self._request("PUT", path, place, content, MOST_BYTES)
        if status not in (200, 201, 204):
            raise self._refused("write", path, status)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _request(
        self, method: str, path: DatastorePath, place: Place, body: bytes | None, limit: int
    ) -> tuple[int, bytes]:
        """Both methods may be repeated, so a dropped connection and an expired session cost one more try each."""
        query = urllib.parse.urlencode({"dcPath": place.datacenter_path, "dsName": path.datastore})
        target = f"/folder/{urllib.parse.quote(path.path)}?{query}"
        try:
            status, answer = self._once(method, target, body, limit)
        except DROPPED:
            status, answer = self._once(method, target, body, limit)
        if status == 401:
            self._session.renew()
            status, answer = self._once(method, target, body, limit)
        return status, answer

    def _once(self, method: str, target: str, body: bytes | None, limit: int) -> tuple[int, bytes]:
        cookie = self._session.cookie
        if self._connection is None or time.monotonic() - self._used_at > IDLE_S:
            self.close()
            self._connection = http.client.HTTPSConnection(
                self._session.host,
                self._session.port,
                timeout=self._session.config.timeout_s,
                context=self._session.tls,
            )
        try:
            self._connection.request(method, target, body, {"Cookie": cookie})
            response = self._connection.getresponse()
            content = response.read(limit)
            if not response.isclosed() and response.read(1):
                self.close()  # the rest of a big file: dropping the connection is cheaper than reading it
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        self._used_at = time.monotonic()
        return response.status, content

    def _refused(self, verb: str, path: DatastorePath, status: int) -> ProvisioningError:
        name = self._session.config.name
        detail = {"endpoint": name, "http_status": status}
        message = f"{name}: could not {verb} {path}: its /folder answers {status}"
        if status in (401, 403):
            return ProvisioningError(
                "vsphere_auth",
                f"{message}: grant our user Datastore.Browse and Datastore.FileManagement",
                detail=detail,
            )
        if status == 404:
            return ProvisioningError("vsphere_fault", f"{message}: does the directory exist?", detail=detail)
        if status == 503:
            return ProvisioningError(
                "host_unavailable", f"{message}: it is overloaded, give it a moment", retryable=True, detail=detail
            )
        if status == 507:
            return ProvisioningError(
                "datastore_full", f"{message}: the datastore is full, delete something", detail=detail
            )
        return ProvisioningError("vsphere_fault", f"{message}: is the datastore full?", retryable=True, detail=detail)
