"""Broker URLs."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from bridge.parameters import BrokerParameters


@pytest.mark.parametrize(
    ("url", "host", "port", "virtual_host", "user"),
    [
        ("amqp://vcld@127.0.0.1:5673/", "127.0.0.1", 5673, "/", "vcld"),
        ("amqp://vcld@localhost", "localhost", 5672, "/", "vcld"),
        ("amqp://vcld@[::1]/vcl", "::1", 5672, "vcl", "vcld"),
        ("amqps://a%40b@broker.example.edu/%2Fvcl", "broker.example.edu", 5671, "/vcl", "a@b"),
    ],
)
def test_a_url_is_taken_apart(url: str, host: str, port: int, virtual_host: str, user: str) -> None:
    found = BrokerParameters.from_url(url, "secret")
    assert (found.host, found.port, found.virtual_host, found.user) == (host, port, virtual_host, user)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("amqp://vcld@broker.example.edu/", "in the clear"),
        ("amqp://vcld@10.1.2.3/", "in the clear"),
        ("amqp://vcld@localhost.example.edu/", "in the clear"),
        ("http://vcld@localhost/", "must be like"),
        ("amqp://localhost/", "must be like"),
        ("amqps://vcld@/", "must be like"),
        ("amqp://vcld@localhost:x/", "port"),
        ("amqp://vcld@localhost:99999/", "port"),
        ("amqp://vcld:hunter2@localhost/", "file of its own"),
        ("amqps://vcld@localhost/?verify=verify_none", "options"),
    ],
)
def test_a_url_that_will_not_do_is_refused_without_telling_the_password(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        BrokerParameters.from_url(url, "secret")
    assert "hunter2" not in str(caught.value)


def test_tls_always_verifies_chain_and_name_on_loopback_too() -> None:
    context = BrokerParameters.from_url("amqps://vcld@localhost/", "secret").tls_context()
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_an_unreadable_ca_file_is_an_os_error(tmp_path: Path) -> None:
    parameters = BrokerParameters.from_url("amqps://vcld@localhost/", "secret", tmp_path / "absent.pem")
    with pytest.raises(OSError, match="No such file"):
        parameters.tls_context()


def test_the_password_is_not_printed() -> None:
    assert "secret" not in repr(BrokerParameters.from_url("amqp://vcld@localhost/", "secret"))
