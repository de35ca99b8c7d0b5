"""The command line where no server is needed."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from bridge.client import NoReply, NoService
from bridge.envelope import EnvelopeError
from bridge.message import BrokerRefused, BrokerUnavailable
from esxprov import config
from esxprov.cli import commands
from esxprov.errors import ConfigurationError, DependencyUnavailable, ProvisioningError

EXAMPLES = Path(__file__).parents[2] / "bridge" / "examples"
LEASES = """
lease 10.77.1.20 {
  starts 0 2026/11/22 05:41:07;
  ends never;
  binding state active;
  hardware ethernet 00:50:56:01:00:02;
  client-hostname "vclv1-2";
}
lease 10.77.1.3 {
  starts 0 2026/11/22 05:41:07;
  ends never;
  binding state active;
  hardware ethernet 00:50:56:01:00:03;
}
lease 10.77.1.4 {
  starts 0 2026/11/22 05:41:07;
  ends 0 2026/11/22 05:41:08;
  binding state free;
  hardware ethernet 00:50:56:01:00:04;
}
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good configuration, whose servers are not there."""
    for variable in [name for name in os.environ if name.startswith("ESXPROV_")]:
        monkeypatch.delenv(variable)
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    path = tmp_path / "esxprov.conf"
    path.write_text(
        f"[service]\nmanagement_node = mn1\n"
        f"[broker]\nurl = amqp://esxprov@127.0.0.1:1/\npassword_file = {secret}\n"
        f"[database]\nunix_socket = {tmp_path}/no.sock\nuser = vcl\npassword_file = {secret}\n"
        f"[leases]\nsource = dhcpd:{tmp_path}/dhcpd.leases\n"
        f"[endpoint esx1]\nurl = https://127.0.0.1:1/sdk\nuser = svc\npassword_file = {secret}\n"
        "[pool main]\nendpoints = esx1\nprofile = blades\n"
    )
    return path


def esxprov(*arguments: str | Path, text: str = "") -> Result:
    return CliRunner().invoke(commands, [str(argument) for argument in arguments], input=text)


def with_conf(conf: Path, *arguments: str | Path, text: str = "") -> Result:
    return esxprov("--conf", conf, *arguments, text=text)


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """From now on reading the configuration ends like this."""

    def load(*_: Any, **__: Any) -> config.Config:
        raise error

    monkeypatch.setattr("esxprov.cli.setup.configuration.load", load)


def all_commands() -> Iterator[tuple[str, click.Command]]:
    def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        if isinstance(command, click.Group):
            for below in command.commands.values():
                yield from walk(f"{name} {below.name}", below)

    yield from walk("esxprov", commands)


# --- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProvisioningError("no_capacity", "what happened"), 1),
        (NoReply("what happened"), 1),
        (EnvelopeError("invalid_event", "what happened"), 1),
        (BrokerUnavailable("what happened"), 69),
        (BrokerRefused("what happened"), 69),
        (NoService("what happened"), 69),
        (DependencyUnavailable("what happened"), 69),
        (ProvisioningError("host_unavailable", "what happened"), 69),
        (ProvisioningError("vsphere_auth", "what happened"), 69),
        (ConfigurationError("what happened"), 78),
    ],
)
def test_an_expected_failure_is_its_sentence_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    raising(monkeypatch, error)
    result = esxprov("check-config")
    assert (result.exit_code, result.stderr, result.stdout) == (code, "esxprov: what happened\n", "")


def test_a_bug_is_one_sentence_and_with_verbose_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyError("moid"))
    result = esxprov("check-config")
    assert result.exit_code == 1
    assert result.stderr == "esxprov: internal error, KeyError: 'moid'; please report it with what -v prints\n"
    assert isinstance(esxprov("-v", "check-config").exception, KeyError)


def test_usage_errors_end_with_2() -> None:
    assert esxprov("dance").exit_code == 2
    assert esxprov("events", "list", "--limit", "-1").exit_code == 2
    assert esxprov("place", "--profile", "x", "--ram-mb", "0").exit_code == 2
    assert "name an --image, or else say --ram-mb" in esxprov("place", "--profile", "x").stderr
    assert esxprov("leases", "show", "--mac", "00:50").exit_code == 2
    assert "name an event, a file, or --dead" in esxprov("replay").stderr
    assert "load needs --file: see bridge/examples/vcl.load.requested.v1.json" in esxprov("call", "load").stderr
    assert "'dance' is not one of 'load'" in esxprov("call", "dance").stderr


def test_a_missing_configuration_says_what_to_do(tmp_path: Path) -> None:
    result = with_conf(tmp_path / "none.conf", "hosts")
    assert result.exit_code == 78
    assert "none.conf cannot be read (No such file or directory): write it, or name another" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["db", "upgrade"],
        ["db", "status"],
        ["vcl", "register"],
        ["vcl", "unregister", "--dry-run"],
        ["events", "list"],
        ["events", "show", "e1"],
        ["events", "export"],
        ["replay", "e1"],
        ["hosts"],
        ["claims", "list"],
        ["claims", "reconcile"],
        ["place", "--profile", "blades", "--ram-mb", "512"],
        ["capacity"],
        ["placement", "snapshot"],
        ["placement", "replay-decision", "e1"],
        ["serve"],
    ],
    ids=" ".join,
)
def test_without_the_database_every_command_that_needs_it_ends_with_69(conf: Path, command: list[str]) -> None:
    result = with_conf(conf, *command)
    assert result.exit_code == 69
    assert result.stderr.count("\n") == 1
    assert "does not answer user 'vcl'" in result.stderr
    assert "check [database] in esxprov.conf and that MariaDB runs" in result.stderr


@pytest.mark.parametrize(
    "command",
    [["call", "ping"], ["dead", "list"], ["dead", "show", "m1"], ["dead", "drop", "m1"], ["replay", "--dead"]],
    ids=" ".join,
)
def test_without_the_broker_every_command_that_needs_it_ends_with_69(
    conf: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esxprov.cli.setup.CONNECT_S", 0.3)
    result = with_conf(conf, *command)
    assert result.exit_code == 69
    assert result.stderr == (
        "esxprov: the broker amqp://127.0.0.1:1 cannot be reached: Connection refused; check that RabbitMQ runs there, "
        "and url in esxprov.conf\n"
    )


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "command"), list(all_commands()), ids=lambda value: str(value))
def test_every_command_and_every_option_says_what_it_is_for(name: str, command: click.Command) -> None:
    assert command.help, name
    first = command.get_short_help_str(limit=200)
    assert len(first) <= 60, f"{name}: {first!r} is cut off in the list of commands"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"


def test_what_a_program_would_read_has_json() -> None:
    with_json = {name for name, one in all_commands() if any(option.name == "as_json" for option in one.params)}
    assert with_json == {
        f"esxprov {name}"
        for name in (
            "check-config", "vcl register", "vcl unregister", "db status", "db upgrade", "events list", "events show",
            "replay", "call", "dead list", "dead show", "hosts", "hosts recover", "place", "capacity",
            "placement simulate", "claims list", "claims reconcile", "placement replay-decision", "leases show",
            "leases watch", "leases check", "images list", "images show", "images verify", "images orphans",
            "doctor", "slots plan", "slots sync", "slots prune", "slots adopt", "slots status",
        )
    }  # fmt: skip


# --- commands that ask nobody ----------------------------------------------------------------------------------------


def test_check_config_says_what_the_configuration_means(conf: Path) -> None:
    result = with_conf(conf, "check-config")
    assert result.exit_code == 0
    assert f"{conf} is good" in result.stdout
    assert "main  blades   esx1       copy          4          1             1024" in result.stdout
    assert re.search(rf"^pool main.profile +blades +{conf}:\d+$", result.stdout, re.MULTILINE)
    assert re.search(r"^pool main.policy +pack +default$", result.stdout, re.MULTILINE)
    assert "s3cret" not in result.stdout


def test_check_config_for_programs(conf: Path) -> None:
    found = json.loads(with_conf(conf, "check-config", "--json").stdout)
    assert (found["node"], found["endpoints"]) == ("mn1", {"esx1": "https://127.0.0.1:1/sdk"})
    assert found["pools"][0]["endpoints"] == ["esx1"]
    assert {"setting": "broker.queue_type", "value": "classic", "from": "default"} in found["settings"]


def test_check_config_names_section_and_key_of_what_is_wrong(conf: Path) -> None:
    result = with_conf(conf, "--set", "pool main.disk=thin", "check-config")
    assert result.exit_code == 78
    assert result.stderr == f"esxprov: {conf}: [pool main] disk is 'thin', expected copy or linked\n"


def test_check_config_refuses_a_broker_that_serve_would_refuse(conf: Path) -> None:
    result = with_conf(conf, "--set", "broker.url=amqp://esxprov@mq.example.org/", "check-config")
    assert result.exit_code == 78
    assert "[broker] url cannot be used: amqp://mq.example.org would send the password in the clear" in result.stderr


def test_the_sample_configuration_has_only_settings_that_exist(tmp_path: Path, conf: Path) -> None:
    sample = tmp_path / "sample.conf"
    sample.write_text(
        "\n".join(
            f"{line.partition('=')[0]}= {conf.parent}/secret" if line.startswith(("password_file", "ca_file")) else line
            for line in esxprov("sample-config").stdout.splitlines()
        )
    )
    assert with_conf(sample, "check-config").exit_code == 0


def test_the_unit_file_runs_this_very_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/esxprov/bin/esxprov", "unit-file"])
    assert "ExecStart=/opt/esxprov/bin/esxprov serve" in esxprov("unit-file").stdout
    assert "ExecStart=/opt/esxprov/bin/esxprov leases publish" in esxprov("unit-file", "--leases").stdout


def test_the_shim_is_where_shim_path_says() -> None:
    assert (Path(esxprov("shim-path").stdout.strip()) / "VCL/Module/Provisioning/esxprov.pm").is_file()


def test_serve_logs_for_journald_and_the_other_commands_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[int] = []
    monkeypatch.setattr("esxprov.cli.setup.logs.configure", levels.append)
    raising(monkeypatch, ConfigurationError("enough"))
    esxprov("check-config")
    esxprov("serve")
    assert levels == [logging.ERROR, logging.ERROR, logging.INFO]


# --- leases ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def leases(tmp_path: Path) -> Path:
    path = tmp_path / "some.leases"
    path.write_text(LEASES)
    return path


def test_leases_of_a_file_need_no_configuration(leases: Path, tmp_path: Path) -> None:
    result = with_conf(tmp_path / "none.conf", "leases", "show", "--file", leases)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2:] == [
        "10.77.1.3   00:50:56:01:00:03  active  no     2026-11-22 05:41:07  -     -",
        "10.77.1.20  00:50:56:01:00:02  active  no     2026-11-22 05:41:07  -     vclv1-2",
    ]


def test_leases_for_programs(leases: Path) -> None:
    (found,) = json.loads(esxprov("leases", "show", "--file", leases, "--ip", "10.77.1.20", "--json").stdout)
    assert found == {
        "ip": "10.77.1.20",
        "mac": "00:50:56:01:00:02",
        "state": "active",
        "starts": "2026-11-22T05:41:07Z",
        "ends": None,
        "hostname": "vclv1-2",
        "fixed": False,
    }


@pytest.mark.parametrize("mac", ["00:50:56:01:00:03", "00-50-56-01-00-03", "0:50:56:1:0:3"])
def test_a_lease_is_found_by_its_mac_however_it_is_written(leases: Path, mac: str) -> None:
    (found,) = json.loads(esxprov("leases", "show", "--file", leases, "--mac", mac, "--json").stdout)
    assert found["ip"] == "10.77.1.3"


@pytest.mark.parametrize(
    ("server", "written"),
    [
        ("kea", "address,hwaddr,valid_lifetime,expire,hostname\n10.77.1.5,00:50:56:01:00:05,4294967295,0,vm5\n"),
        ("dnsmasq", "0 00:50:56:01:00:05 10.77.1.5 vm5 *\n"),
    ],
)
def test_leases_of_another_server_are_read_with_its_format(tmp_path: Path, server: str, written: str) -> None:
    file = tmp_path / "leases"
    file.write_text(written)
    (found,) = json.loads(esxprov("leases", "show", "--file", file, "--format", server, "--json").stdout)
    assert (found["ip"], found["mac"], found["ends"], found["hostname"]) == (
        "10.77.1.5",
        "00:50:56:01:00:05",
        None,
        "vm5",
    )


@pytest.mark.parametrize("command", ["show", "watch"])
def test_a_format_without_a_file_is_a_usage_error(conf: Path, command: str) -> None:
    result = with_conf(conf, "leases", command, "--format", "kea")
    assert result.exit_code == 2
    assert "--format says what --file names" in result.stderr


@pytest.mark.parametrize("command", ["show", "watch"])
def test_a_lease_file_that_is_not_there_is_an_error(conf: Path, command: str) -> None:
    result = with_conf(conf, "leases", command)
    assert result.exit_code == 69
    assert f"the lease file {conf.parent}/dhcpd.leases cannot be read (No such file or directory)" in result.stderr
    assert "[leases] source" in result.stderr


def test_no_lease_is_said_with_the_file(conf: Path) -> None:
    (conf.parent / "dhcpd.leases").touch()
    result = with_conf(conf, "leases", "show")
    assert (result.exit_code, result.stdout) == (0, f"no active lease in {conf.parent}/dhcpd.leases\n")


# --- replay and call, as far as they go without servers --------------------------------------------------------------


def test_replay_of_a_file_is_a_plan_and_needs_no_server(conf: Path) -> None:
    result = with_conf(conf, "replay", EXAMPLES / "vcl.load.requested.v1.json")
    assert result.exit_code == 0
    assert "load of vclv1-27, image vmwarelinux-base9-v3; then: no outcome" in result.stdout
    assert result.stderr == "nothing was done; --execute does it\n"


def test_replay_of_what_cannot_be_done_again_fails_with_the_reason(conf: Path) -> None:
    result = with_conf(conf, "replay", "--json", EXAMPLES / "vcl.load.finished.v1.json")
    assert result.exit_code == 1
    assert "is no request but a vcl.load.finished.v1" in json.loads(result.stdout)[0]["problem"]


def test_a_call_with_a_file_that_is_not_json_is_not_published(conf: Path) -> None:
    result = with_conf(conf, "call", "load", "--file", "-", text="{")
    assert result.exit_code == 1
    assert result.stderr.startswith("esxprov: the file is not JSON: ")


HOSTS_CSV = "host,cpus,ram_mb\nh1,4,4000\n"
REQUESTS_CSV = "time_s,duration_s,request,vm,cpus,ram_mb,max_per_host\n0,5,r1,a,1,4000,\n1,5,r2,b,1,4000,\n"


def simulate(tmp_path: Path, hosts: str = HOSTS_CSV, requests: str = REQUESTS_CSV, *more: str) -> Result:
    for name, text in (("h.csv", hosts), ("r.csv", requests)):
        (tmp_path / name).write_text(text)
    files = ["--hosts", f"{tmp_path}/h.csv", "--requests", f"{tmp_path}/r.csv", "--out", f"{tmp_path}/out.jsonl"]
    return CliRunner().invoke(commands, ["placement", "simulate", *files, *more])


def test_a_simulation_writes_decisions_in_order_and_prints_a_summary(tmp_path: Path) -> None:
    result = simulate(tmp_path, HOSTS_CSV, REQUESTS_CSV, "--json")
    assert result.exit_code == 0, result.output
    decisions = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(one["request"], one["placed"]) for one in decisions] == [("r1", True), ("r2", False)]
    summary = json.loads(result.stdout)
    assert (summary["placed"], summary["refused"], summary["refused_ram_mb"]) == (1, 1, 4000)
    assert summary["utilisation_at_first_refusal"] == 1.0


def test_a_simulation_that_cannot_be_leaves_nothing_behind(tmp_path: Path) -> None:
    result = simulate(tmp_path, requests=REQUESTS_CSV + "0,5,r3,c,1,1,\n")
    assert result.exit_code == 1
    assert f"{tmp_path}/r.csv line 4: time_s is 0, before 1 of the line above" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.csv", "r.csv"]


def test_a_simulation_on_no_host_is_refused(tmp_path: Path) -> None:
    result = simulate(tmp_path, hosts="host,cpus,ram_mb\n")
    assert result.exit_code == 1
    assert f"{tmp_path}/h.csv has no host below its header" in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("node", ["#", "mn1.example.org", ""])
def test_leases_are_published_to_nodes_by_their_short_names_only(node: str) -> None:
    result = esxprov("leases", "publish", "--node", node)
    assert result.exit_code == 2
    assert "is not the short host name of a management node" in result.stderr
