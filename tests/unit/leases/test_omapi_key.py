"""The key file: what dhcpd.conf has, or two words."""

from __future__ import annotations

from pathlib import Path

import pytest

from esxprov.errors import ConfigurationError
from esxprov.leases.omapi_key import OmapiKey

SECRET = "c2l4dGVlbiBieXRlcy4uLg=="
KEY = OmapiKey("omapi_key", b"sixteen bytes...")


@pytest.mark.parametrize(
    "text",
    [
        f"key omapi_key {{ algorithm hmac-md5; secret {SECRET}; }};",
        f"key omapi_key {{\n  secret {SECRET};\n  algorithm HMAC-MD5;\n}}\n",
        f'key "omapi_key" {{ algorithm hmac-md5; secret "{SECRET}"; }};',
        f"# for esxprov\nkey omapi_key {{ algorithm hmac-md5.sig-alg.reg.int.; # old\n secret {SECRET}; }};",
        f"omapi_key {SECRET}\n",
        f"\n  omapi_key\t{SECRET}  # for esxprov",
    ],
)
def test_both_forms_are_read(text: str) -> None:
    assert OmapiKey.parse(text) == KEY


def test_other_algorithms_are_those_of_dhcpd() -> None:
    key = OmapiKey.parse(f"key k {{ algorithm hmac-sha256; secret {SECRET}; }};")
    assert (key.digest, key.size, len(key.sign(b""))) == ("sha256", 32, 32)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no key"),
        ("omapi_key", "holds no key"),
        ("subnet 10.77.0.0 netmask 255.255.0.0 { }", "holds no key"),
        (f"key a {{ algorithm hmac-md5; secret {SECRET}; }};" * 2, "holds no key"),
        ("key k { algorithm hmac-md5; };", "needs one algorithm and one secret"),
        (f"key k {{ algorithm hmac-md5; secret {SECRET}; secret {SECRET}; }};", "needs one algorithm and one secret"),
        (f"key k {{ algorithm hmac-md5; secret {SECRET}; port 7911; }};", "needs one algorithm and one secret"),
        (f"key k {{ algorithm hmac-md4; secret {SECRET}; }};", "hmac-md4 is none that dhcpd knows"),
        (f"key k {{ algorithm md5; secret {SECRET}; }};", "md5 is none that dhcpd knows"),
        ("key k { algorithm hmac-md5; secret ***; };", "not base64"),
        ("omapi_key not-base64", "not base64"),
        ("omapi_key ÄÖÜ", "not base64"),
    ],
)
def test_what_is_no_key_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        OmapiKey.parse(text)


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "omapi.key"
    for content in (None, b"", b"\xff\xfe"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=str(path)):
            OmapiKey.read(path)


def test_a_key_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "omapi.key").write_text(f"omapi_key {SECRET}")
    assert OmapiKey.read(tmp_path / "omapi.key") == KEY


def test_the_secret_is_not_shown() -> None:
    assert "sixteen" not in repr(KEY)
