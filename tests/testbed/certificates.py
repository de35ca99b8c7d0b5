"""The certificate authority of the test bed, made with openssl(1): good certificates, and bad ones."""

from __future__ import annotations

import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from tests.testbed.processes import run

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_EXTENSIONS = """[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class ServerCertificate(NamedTuple):
    """Two PEM files."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """For a server in Python."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Certificates:
    """An authority in `directory`; `ca` is its certificate (PEM)."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._settings = directory / "openssl.conf"
        self._settings.write_text(_EXTENSIONS)
        self.ca = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        subject = ("-extensions", "authority", "-subj", f"/CN={name} of the test bed")
        self._openssl("req", "-x509", *self._key_to(self._key), *subject, "-days", 90, "-out", self.ca)

    def server(self, name: str = "server", *more: str, days: int = 90) -> ServerCertificate:
        """For loopback, and for further addresses or host names."""
        return self.issue(name, names=_alternatives(*_LOOPBACK, *more), days=days)

    def for_other_host(self, host: str = "other.example.org") -> ServerCertificate:
        """Valid, but not for loopback."""
        return self.issue(host, names=_alternatives(host))

    def issue(self, name: str, *, names: str = "", days: int = 2) -> ServerCertificate:
        """`names` is an OpenSSL subjectAltName like "IP:127.0.0.1,DNS:localhost", by default loopback; `days` below 0
        makes one that has expired.
        """
        made = ServerCertificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        request = self._directory / f"{name}.csr"
        named = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={names or _alternatives(*_LOOPBACK)}")
        self._openssl("req", "-new", *self._key_to(made.key), *named, "-out", request)
        # Signed by x509, because req -x509 makes no certificate that has expired already.
        signer = ("-CA", self.ca, "-CAkey", self._key, "-extfile", self._settings, "-extensions", "server")
        self._openssl(
            "x509", "-req", "-in", request, *signer, "-copy_extensions", "copy", "-days", days, "-out", made[0]
        )
        return made

    def _key_to(self, path: Path) -> tuple[str | Path, ...]:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
        return ("-config", self._settings, *curve, "-keyout", path)

    def _openssl(self, *arguments: str | Path | int) -> None:
        run(["openssl", *map(str, arguments)])


def _alternatives(*hosts: str) -> str:
    return ",".join(f"{'IP' if _is_address(host) else 'DNS'}:{host}" for host in hosts)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
