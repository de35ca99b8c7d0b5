"""The Perl and the Python half of the wire, held together: one table of calls, one envelope, one configuration."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bridge import contract, envelope, topology
from esxprov import config

LIB = Path(__file__).parents[2] / "bridge" / "perl" / "lib"
SHIM = "VCL::Module::Provisioning::esxprov"
EXAMPLES = sorted((Path(__file__).parents[2] / "bridge" / "examples").glob("*.json"))


def perl(program: str, environment: Mapping[str, str] | None = None, stdin: bytes = b"") -> str:
    """What a Perl program prints. Raises CalledProcessError with its stderr if it dies."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ESXPROV_")}
    command = ["perl", f"-I{LIB}", "-MJSON::PP", "-we", program]
    finished = subprocess.run(
        command, input=stdin, capture_output=True, check=True, timeout=30, env={**clean, **(environment or {})}
    )
    return finished.stdout.decode()


def test_both_halves_have_the_same_calls_names_and_times() -> None:
    program = f"""
        use {SHIM}::Contract; no warnings 'once'; package {SHIM}::Contract;
        print JSON::PP->new->encode({{
            calls => \\%CALLS, loadstates => [sort keys %LOADSTATES], phases => [sort keys %PHASES],
            outcomes => [sort keys %OUTCOMES], numbers => [$MESSAGE_VERSION, $PROGRESS_INTERVAL_S, $SILENCE_S, $GRACE_S,
            $MAX_BYTES, $REPLY_EXPIRES_MS, $REPLY_MAX_LENGTH], texts => [$EXCHANGE, $CONTENT_TYPE,
            message_type('load', 'requested'), routing_key('mn1', 'load'), reply_queue('mn1', 5678)] }});
    """
    theirs = json.loads(perl(program))
    assert theirs == {
        "calls": {
            call.name: {"lane": call.lane.value, "kind": call.kind.value, "deadline_s": call.deadline_s}
            for call in contract.CALLS.values()
        },
        "loadstates": sorted(contract.LOADSTATES),
        "phases": sorted(phase.value for phase in contract.Phase),
        "outcomes": sorted(outcome.value for outcome in contract.Outcome),
        "numbers": [
            contract.VERSION,
            contract.PROGRESS_INTERVAL_S,
            contract.SILENCE_S,
            contract.GRACE_S,
            envelope.MAX_BYTES,
            topology.REPLY_EXPIRES_MS,
            topology.REPLY_MAX_LENGTH,
        ],
        "texts": [
            topology.EXCHANGE,
            envelope.CONTENT_TYPE,
            contract.message_type("load", contract.Phase.REQUESTED),
            topology.routing_key("mn1", "load"),
            topology.reply_queue("mn1", 5678),
        ],
    }


def test_a_message_that_went_through_perl_is_the_same_event() -> None:
    program = f"""
        use {SHIM}::Envelope qw(decode encode);
        local $/ = "\\0"; while (my $body = <STDIN>) {{ chomp($body); print encode(decode($body)), "\\0" }}
    """
    bodies = [path.read_bytes() for path in EXAMPLES]
    assert len(bodies) >= 40
    returned = perl(program, stdin=b"\0".join(bodies)).encode().rstrip(b"\0").split(b"\0")
    assert [envelope.decode(body) for body in returned] == [envelope.decode(body) for body in bodies]


def test_a_request_made_in_perl_is_a_request_for_python() -> None:
    program = f"""
        use {SHIM}::Envelope qw(request encode);
        print encode(request('load', {{a => 1}}, source => 'urn:vcl:mn:mn1'));
    """
    event = envelope.decode(perl(program).encode())
    assert (event.call, event.phase, event.data) == ("load", contract.Phase.REQUESTED, {"a": 1})
    assert event.expirytime is not None
    assert (event.expirytime - event.time).total_seconds() == pytest.approx(contract.CALLS["load"].deadline_s, abs=1e-5)


# --- configuration ---------------------------------------------------------------------------------------------------


def perl_config(path: Path, **environment: str) -> dict[str, Any]:
    program = f"use {SHIM}::Config; print JSON::PP->new->encode({SHIM}::Config::load())"
    return dict(json.loads(perl(program, {"ESXPROV_CONF": str(path), **environment})))


def python_config(path: Path, **environment: str) -> config.Config:
    return config.load({"ESXPROV_CONF": str(path), **environment})


INI = """\
# one file for both
[service]
management_node = mn1
[broker]
url = amqp://esxprov@127.0.0.1:5673/
password_file = {secret}
[vcld]
    url = amqps://vcl%64@broker.example/vcl%2Fprod  # the address of the broker
    password_file = {secret}
    spool = /var/spool/elsewhere
[database]
user = vcl
"""


def test_perl_and_python_read_the_same_file_alike(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("p#ss word \n")
    secret.chmod(0o600)
    path = tmp_path / "esxprov.conf"
    path.write_text(INI.format(secret=secret))
    theirs, ours = perl_config(path), python_config(path)
    assert theirs["user"] == ours.vcld.user == "vcld"
    assert theirs["password"] == ours.vcld.password == "p#ss word "
    assert theirs["management_node"] == ours.service.management_node == "mn1"
    assert theirs["host"] == "broker.example"
    assert theirs["vhost"] == "vcl/prod"
    assert theirs["spool"] == "/var/spool/elsewhere"


def test_the_environment_wins_in_both(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    path = tmp_path / "esxprov.conf"
    path.write_text(INI.format(secret=secret))
    environment = {"ESXPROV_VCLD_URL": "amqps://other@elsewhere/", "ESXPROV_SERVICE_MANAGEMENT_NODE": "mn7"}
    theirs, ours = perl_config(path, **environment), python_config(path, **environment)
    assert theirs["user"] == ours.vcld.user == "other"
    assert theirs["management_node"] == ours.service.management_node == "mn7"


def test_without_a_section_of_its_own_the_shim_uses_the_service_s_broker_in_both(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    path = tmp_path / "esxprov.conf"
    path.write_text(f"[broker]\nurl = amqps://esxprov@h/\npassword_file = {secret}\n")
    assert perl_config(path)["user"] == python_config(path).vcld.user == "esxprov"
