"""TLS to an endpoint: always verified, by an authority or by the fingerprint of the server's certificate."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from typing import Any

from esxprov.model import EndpointConfig


class FingerprintMismatch(ssl.SSLError):
    """The server's certificate is not the pinned one. `presented` is its SHA-256 as colon-separated hex."""

    def __init__(self, presented: str) -> None:
        super().__init__("certificate fingerprint mismatch")
        self.presented = presented


class UnusableAuthority(Exception):
    """The ca_file cannot be read, or holds no certificate."""


class _PinnedContext(ssl.SSLContext):
    """Accepts one certificate, whoever issued it.

    pyVmomi's own `thumbprint` looks at the certificate only if the chain did *not* verify, only on the connect that it
    makes itself (http.client reconnects behind its back), and not at all with verification switched off. A check
    inside the handshake has none of these holes, and serves /folder as well.
    """

    fingerprint: bytes

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        sock = super().wrap_socket(*args, **kwargs)
        certificate = sock.getpeercert(binary_form=True) or b""
        presented = hashlib.sha256(certificate).digest()
        if not hmac.compare_digest(presented, self.fingerprint):
            sock.close()
            raise FingerprintMismatch(presented.hex(":").upper())
        return sock


def context(config: EndpointConfig) -> ssl.SSLContext:
    """The context for every connection to the endpoint. Raises UnusableAuthority.

    It is handed over explicitly, for without one pyVmomi talks to localhost unverified.
    """
    if config.thumbprint:
        pinned = _PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
        pinned.minimum_version = ssl.TLSVersion.TLSv1_2
        pinned.fingerprint = bytes.fromhex(config.thumbprint.replace(":", ""))
        pinned.check_hostname = False
        pinned.verify_mode = ssl.CERT_NONE
        return pinned
    try:
        return ssl.create_default_context(cafile=str(config.ca_file) if config.ca_file else None)
    except OSError as error:
        raise UnusableAuthority(f"its ca_file {config.ca_file} cannot be used ({error})") from error


_X509_ERRORS = {
    9: "its certificate is not valid yet: compare the clocks of both machines",
    10: "its certificate has expired: renew it",
    18: "its certificate is self-signed: give it in ca_file, or pin it with thumbprint",
    19: "its certificate was issued by an authority that ca_file does not hold: correct ca_file",
    20: "its certificate was issued by an authority that ca_file does not hold: correct ca_file",
    21: "its certificate was issued by an authority that ca_file does not hold: correct ca_file",
    23: "its certificate was revoked: renew it",
    62: "its certificate is for another name: correct url, or the certificate",
    64: "its certificate is for another address: write the name in url, or correct the certificate",
}
"""OpenSSL's X509_V_ERR numbers."""


def explain(error: ssl.SSLError) -> str | None:
    """What is wrong with the server's certificate, and what to do; None if the error is not about that."""
    if isinstance(error, FingerprintMismatch):
        return (
            f"its certificate has the fingerprint {error.presented}, not the pinned one: "
            "if that is right, correct thumbprint"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return _X509_ERRORS.get(error.verify_code, f"its certificate is refused ({error.verify_message})")
    return None
