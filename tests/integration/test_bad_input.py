"""Bad input to the real service: a clear error, and nothing lost and nothing left behind.

One bed and one service for all of it; see `trouble` for what is wrong in there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bridge.contract import Lane
from bridge.envelope import MAX_BYTES, encode
from bridge.topology import DEAD, lane_queue
from tests.integration.trouble import DEADLINE_S, IMAGE, Trouble, World, a_troubled_bed
from tests.testbed.bed import NODE


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trouble]:
    with a_troubled_bed(tmp_path_factory.mktemp("trouble")) as trouble:
        yield trouble


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(trouble: Trouble) -> Iterator[None]:
    before = World.of(trouble)
    yield
    for endpoint in trouble.bed.endpoints.values():
        endpoint.clear_faults()
    assert World.of(trouble) == before
    assert trouble.service.is_alive()


# --- messages that are parked instead of obeyed ----------------------------------------------------------------------


def a_load(trouble: Trouble, **changes: Any) -> bytes:
    """A good load, but for the envelope's `changes`."""
    return json.dumps({**json.loads(encode(trouble.event())), **changes}).encode()


def test_what_is_no_json_is_parked(trouble: Trouble) -> None:
    row = trouble.parked(b"\xff\xfe load it, please")
    assert row["reason"].startswith("invalid_event: the body is not JSON: ")
    assert row["publisher"] == "esxprov-cli"


def test_what_is_too_large_is_parked_with_its_size(trouble: Trouble) -> None:
    body = a_load(trouble, comment="x" * MAX_BYTES)
    reason = trouble.parked(body)["reason"]
    assert reason == f"invalid_event: the message has {len(body)} bytes, {MAX_BYTES} are allowed"


def test_an_unknown_type_is_parked(trouble: Trouble) -> None:
    reason = trouble.parked(a_load(trouble, type="vcl.dance.requested.v1"))["reason"]
    assert reason == "invalid_event: there is no call 'dance': is its sender newer than we are?"


def test_an_unknown_major_version_is_parked(trouble: Trouble) -> None:
    reason = trouble.parked(a_load(trouble, type="vcl.load.requested.v2"))["reason"]
    assert reason == (
        "unsupported_version: type 'vcl.load.requested.v2': version 2 is not spoken here, only 1: bring shim and "
        "service to the same release"
    )


def test_an_answer_sent_as_a_request_is_parked(trouble: Trouble) -> None:
    reason = trouble.parked(a_load(trouble, type="vcl.load.finished.v1"))["reason"]
    assert reason == "invalid_event: vcl.load.finished.v1 is not a request"


@pytest.mark.parametrize("queue", [lane_queue(NODE, Lane.SLOW), DEAD, "amq.gen-somebody", "vcl.reply"])
def test_a_request_for_replies_to_a_queue_that_is_no_callers_own_is_parked(trouble: Trouble, queue: str) -> None:
    reason = trouble.parked(a_load(trouble), reply_to=queue)["reason"]
    assert reason == f"invalid_event: replies must not go to the queue {queue!r}, only to vcl.reply.* or esxprov.cli.*"


def test_a_broker_user_who_may_not_give_commands_is_not_obeyed(trouble: Trouble) -> None:
    row = trouble.parked(a_load(trouble), user="onlooker")
    assert row["publisher"] == "onlooker"
    assert row["reason"] == (
        "invalid_event: broker user 'onlooker' may not give commands here, only esxprov, esxprov-cli, vcld may"
    )


def test_a_message_without_a_user_is_not_obeyed(trouble: Trouble) -> None:
    reason = trouble.parked(a_load(trouble), user_id=None)["reason"]
    assert reason == "invalid_event: it does not say which broker user sent it (AMQP property user_id)"


def test_while_the_dead_queue_is_missing_a_bad_message_stays_in_its_own(trouble: Trouble) -> None:
    with trouble.no_dead_queue():
        with trouble.logging("taking in nothing, since a message cannot be parked: the queue esxprov.dead"):
            identifier = trouble.publish(b"nonsense")
        trouble.wait_until_in(lane_queue(NODE, Lane.SLOW), identifier)
    trouble.wait_until_in(DEAD, identifier)
    assert trouble.bed.esxprov("dead", "drop", identifier).returncode == 0


# --- requests for what is not there ----------------------------------------------------------------------------------


def test_an_unknown_image_is_named_with_the_disk_it_should_have(trouble: Trouble) -> None:
    error = trouble.refused(image={"name": "vmwarelinux-nobody-v9"})
    assert error.code == "image_not_found"
    assert error.message == (
        "image vmwarelinux-nobody-v9 has no disk [nfs1] golden/vmwarelinux-nobody-v9/vmwarelinux-nobody-v9.vmdk: "
        "copy it there, or capture the image again"
    )


def test_a_profile_without_a_datastore_says_what_to_set(trouble: Trouble) -> None:
    error = trouble.refused(profile={"datastore_path": "", "vm_path": ""})
    assert error.code == "invalid_event"
    assert error.message == (
        "VM profile 'testbed' has the datastore path '', which names no datastore: set it to the datastore's name, "
        "like 'nfs1', in VCL's VM host profile"
    )


def test_a_profile_that_no_pool_has_says_what_to_write(trouble: Trouble) -> None:
    error = trouble.refused(profile={"name": "nowhere"})
    assert error.code == "invalid_event"
    assert error.message == (
        f"no pool has the VM host profile 'nowhere': set 'profile = nowhere' in a [pool NAME] of {trouble.bed.conf}"
    )


def test_a_network_that_no_host_has_is_said_for_each_host(trouble: Trouble) -> None:
    error = trouble.refused(profile={"networks": ["Private", "Lab 7"]})
    assert error.code == "no_capacity"
    assert error.detail["refused"] == dict.fromkeys(("esx1", "esx2", "esx3"), "the host has no network Lab 7")
    assert "esx2: the host has no network Lab 7" in error.message


def test_a_datastore_that_no_host_has_is_named_with_those_there_are(trouble: Trouble) -> None:
    error = trouble.refused(profile={"datastore_path": "nfs9", "vm_path": ""})
    assert error.message == "esx1 has no datastore 'nfs9' (it has: nfs1): mount it there, or correct the VM profile"


def test_an_image_whose_content_is_missing_is_named(trouble: Trouble) -> None:
    content = trouble.bed.store / "golden" / IMAGE / f"{IMAGE}-flat.vmdk"
    away = content.rename(trouble.bed.directory / "away")
    try:
        error = trouble.refused()
    finally:
        away.rename(content)
    assert error.code == "vsphere_fault"
    assert f"could not copy [nfs1] golden/{IMAGE}/{IMAGE}.vmdk" in error.message
    assert "a file is missing: is it still where" in error.message


def test_a_capture_of_a_disk_that_is_not_there_leaves_no_image(trouble: Trouble) -> None:
    assert trouble.call()["outcome"] == "ok"
    assert trouble.call("power_off")["outcome"] == "ok"
    (trouble.bed.store / "inuse" / "slot1" / f"{IMAGE}.vmdk").unlink()
    error = trouble.refused("capture", image={"name": "vmwarelinux-mine-v1"})
    assert error.code == "vsphere_fault"
    assert error.message == (
        f"the disk [nfs1] inuse/slot1/{IMAGE}.vmdk of slot1 is not there any more: nothing is left to capture, reload "
        "the computer"
    )
    trouble.unloaded()


# --- names that must not become paths --------------------------------------------------------------------------------

BAD_NAMES = ["..", "../golden", "a/b", "/etc", ".hidden", "a..b", "two\nlines", "nul\x00", "esc\x1b[31m", "", "x" * 76]


@pytest.mark.parametrize("section", ["computer", "image"])
@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_name_that_is_none_touches_nothing(trouble: Trouble, section: str, name: str) -> None:
    named: dict[str, Any] = {section: {"name": name}}
    error = trouble.refused(**named)
    assert error.code == "invalid_event"
    assert f"{section}.name" in error.message
    assert error.message.isprintable()


@pytest.mark.parametrize("call", ["unload", "capture", "does_image_exist", "power_off"])
@pytest.mark.parametrize("section", ["computer", "image"])
def test_a_path_for_a_name_is_refused_by_every_call(trouble: Trouble, call: str, section: str) -> None:
    named: dict[str, Any] = {section: {"name": "../golden"}}
    error = trouble.refused(call, **named)
    assert error.message == (
        f"{section}.name '../golden' cannot be used in a datastore path: use 1 to 75 of A-Z a-z 0-9 . - _"
    )


# --- endpoints -------------------------------------------------------------------------------------------------------


def test_wrong_credentials_name_the_endpoint_and_the_section_to_correct(trouble: Trouble) -> None:
    error = trouble.refused(profile={"name": "stranger"})
    assert (error.code, error.retryable) == ("vsphere_auth", False)
    assert error.message.startswith("stranger: could not read ")
    assert "refuses our user or password: correct them in its [endpoint] section" in error.message


def test_an_expired_certificate_says_so(trouble: Trouble) -> None:
    error = trouble.refused(profile={"name": "expired"})
    assert error.code == "vsphere_auth"
    assert "its certificate has expired: renew it" in error.message


def test_a_host_that_cannot_be_reached_is_tried_again_and_named_before_the_deadline(trouble: Trouble) -> None:
    reply = trouble.call(profile={"name": "gone"}, deadline_s=2.5)
    assert (reply["outcome"], reply["attempts"]) == ("failed", 2)
    assert reply["error"]["code"] == "host_unavailable"
    assert reply["error"]["message"].startswith("gone: could not read ")
    assert "refuses connections: is the management service running?" in reply["error"]["message"]


def test_a_pool_with_one_host_that_cannot_be_reached_uses_the_others(trouble: Trouble) -> None:
    assert trouble.call(profile={"name": "half"})["result"]["host"] == "esx1"
    assert trouble.call("unload", profile={"name": "half"})["result"]["removed"]


def test_a_datastore_without_room_for_the_disk_is_not_even_tried(trouble: Trouble) -> None:
    error = trouble.refused(profile={"name": "full"})
    assert error.code == "no_capacity"
    assert "MB more were free on datastore nfs1" in error.message


def test_a_datastore_that_runs_full_in_mid_copy_is_cleaned_up(trouble: Trouble) -> None:
    for host in trouble.bed.endpoints.values():
        host.inject("CopyVirtualDisk_Task", "task", fault="NoDiskSpace", ms=50)
    error = trouble.refused()
    assert (error.code, error.retryable) == ("datastore_full", False)
    assert "slot1 needs up to 64 MB on [nfs1], which was full in the middle of the copy" in error.message


# --- servers that are away -------------------------------------------------------------------------------------------


def test_a_command_waits_for_the_database_and_is_then_done(trouble: Trouble) -> None:
    """The shim has its own way to the database; here only the service's user is locked out."""
    database = trouble.bed.mariadb
    with trouble.logging("accepting nothing: the database vcl at "):
        database.execute("ALTER USER esxprov@'%' ACCOUNT LOCK; KILL USER esxprov")
        child = trouble.bed.vcld_child(trouble.reservation("slot1"), "load")
    database.execute("ALTER USER esxprov@'%' ACCOUNT UNLOCK")
    output, _ = child.communicate(timeout=DEADLINE_S)
    assert json.loads(output)["result"] == 1
    trouble.unloaded()


def test_a_command_waits_for_a_database_that_is_read_only_and_is_then_done(trouble: Trouble) -> None:
    database = trouble.bed.mariadb
    with ThreadPoolExecutor(1) as caller:
        try:
            with trouble.logging("accepting nothing: the database vcl at "):
                database.execute("SET GLOBAL read_only = 1")
                reply = caller.submit(trouble.call)
        finally:
            database.execute("SET GLOBAL read_only = 0")
        assert reply.result(DEADLINE_S)["outcome"] == "ok"
    trouble.unloaded()


def test_serve_without_a_database_ends_with_69_and_one_sentence(trouble: Trouble) -> None:
    done = trouble.bed.esxprov("--set", "database.unix_socket=/nonexistent/sql", "serve")
    assert done.returncode == 69
    assert done.stderr.count("\n") == 1
    assert "the database vcl at /nonexistent/sql does not answer user 'esxprov'" in done.stderr
    assert "check [database] in esxprov.conf and that MariaDB runs" in done.stderr


def test_serve_without_a_broker_ends_with_69_and_one_sentence(trouble: Trouble) -> None:
    serve = trouble.slow["serve"]
    _, said = serve.communicate(timeout=DEADLINE_S)
    assert serve.returncode == 69
    (sentence,) = [line for line in said.splitlines() if line.startswith("esxprov: ")]
    assert "cannot be reached: Connection refused; check that RabbitMQ runs there, and url in" in sentence


def test_a_load_without_a_broker_fails_with_one_sentence_and_leaves_no_spool_file(trouble: Trouble) -> None:
    output, _ = trouble.slow["load"].communicate(timeout=2 * DEADLINE_S)
    assert json.loads(output)["result"] is None
    warnings = [
        line for line in (trouble.bed.directory / "vcld.log").read_text().splitlines() if line.startswith("WARNING")
    ]
    assert len(warnings) == 1
    assert warnings[0].endswith("refused; check that RabbitMQ runs there, and [vcld] url in esxprov.conf")
    assert list(trouble.bed.spool.glob("*")) == []
