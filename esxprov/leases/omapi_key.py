"""The shared secret of dhcpd and whoever speaks OMAPI to it, and the file it is kept in."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass, field
from pathlib import Path

from esxprov.errors import ConfigurationError

_SIZES = {"md5": 16, "sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64}
"""Digest -> bytes of a signature."""

_COMMENT = re.compile(r"#[^\n]*")
_DECLARATION = re.compile(r'\s*key\s+"?([^\s"{};]+)"?\s*\{([^{}]*)\}\s*;?\s*')
_STATEMENT = re.compile(r'\s*(algorithm|secret)\s+"?([^\s"]+)"?\s*')
_FORMS = "expected `key NAME { algorithm hmac-md5; secret BASE64; };` as in dhcpd.conf, or `NAME BASE64`"


@dataclass(frozen=True, slots=True)
class OmapiKey:
    """`digest` is one of md5, sha1, sha224, sha256, sha384, sha512: what dhcpd calls hmac-md5 and so on."""

    name: str
    secret: bytes = field(repr=False)
    digest: str = "md5"

    @classmethod
    def read(cls, path: Path) -> OmapiKey:
        """The key in a file. ConfigurationError if there is none that can be used."""
        try:
            return cls.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"The OMAPI key file {path} cannot be used: {error}.") from error

    @classmethod
    def parse(cls, text: str) -> OmapiKey:
        """The key as declared in dhcpd.conf; or its name and secret, then it is for hmac-md5. ValueError for others."""
        text = _COMMENT.sub("", text)
        if declared := _DECLARATION.fullmatch(text):
            statements = [_STATEMENT.fullmatch(part) for part in declared[2].split(";") if part.strip()]
            said = {found[1]: found[2] for found in statements if found}
            if len(said) != len(statements) or said.keys() != {"algorithm", "secret"}:
                raise ValueError(f"key {declared[1]} needs one algorithm and one secret and nothing else; {_FORMS}")
            return cls(declared[1], _secret(said["secret"]), _digest(said["algorithm"]))
        match text.split():
            case [name, secret]:
                return cls(name, _secret(secret))
        raise ValueError(f"it holds no key; {_FORMS}")

    @property
    def algorithm(self) -> str:
        """Its name on the wire."""
        return f"hmac-{self.digest}.SIG-ALG.REG.INT."

    @property
    def size(self) -> int:
        """Bytes of a signature."""
        return _SIZES[self.digest]

    def sign(self, data: bytes) -> bytes:
        """The signature of data."""
        return hmac.digest(self.secret, data, self.digest)


def _digest(algorithm: str) -> str:
    name = algorithm.lower().removesuffix(".").removesuffix(".sig-alg.reg.int")
    digest = name.removeprefix("hmac-")
    if digest == name or digest not in _SIZES:
        known = ", ".join(f"hmac-{known}" for known in _SIZES)
        raise ValueError(f"the algorithm {algorithm} is none that dhcpd knows ({known})")
    return digest


def _secret(text: str) -> bytes:
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not secret:
        raise ValueError("its secret is not base64")
    return secret
