"""The Perl shim's conversations through a real broker: what arrives, what comes back, and what is lost on the way."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pika
import pytest

from bridge import topology
from bridge.contract import CALLS, Outcome
from bridge.envelope import CONTENT_TYPE, encode
from tests.integration.shim_broker import Shim, ShimBroker, Wire
from tests.integration.shim_peer import Peer, Received, done, note, refused
from tests.testbed.certificates import Certificates, ServerCertificate
from tests.testbed.rabbitmq import RabbitMq

GOLDEN = Path(__file__).parents[2] / "bridge" / "examples"
LOAD: dict[str, Any] = json.loads((GOLDEN / "vcl.load.requested.v1.json").read_text())["data"]
QUICK = ("--timing", "connect=3", "--timing", "patience=1.5", "--timing", "backoff=0.5")


@pytest.fixture
def shim(shim_broker: ShimBroker, tmp_path: Path) -> Shim:
    return Shim(tmp_path / "shim", shim_broker)


@pytest.fixture
def peer(peer_parameters: pika.ConnectionParameters) -> Iterator[Peer]:
    with Peer(peer_parameters) as serving:
        yield serving


def answer_load(peer: Peer) -> None:
    peer.answers["load"] = lambda event: [done(event, private_ip="10.77.1.27")]


# --- what goes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["load", "unload", "power_on", "node_status"])
def test_a_request_arrives_with_key_properties_and_body_of_the_contract(shim: Shim, peer: Peer, call: str) -> None:
    peer.answers[call] = lambda event: [done(event)]
    assert shim.ask(call, LOAD).reply["outcome"] == "ok"
    (message,) = peer.wait_for(1)
    event, properties = message.event, message.properties
    assert message.routing_key == topology.routing_key("mn1", call)
    assert event.data == LOAD
    assert event.source == "urn:vcl:mn:mn1"
    assert event.correlationid == "request/1234/reservation/5678"
    assert event.partitionkey == event.subject == "computer/27"
    assert event.expirytime is not None
    assert (event.expirytime - event.time).total_seconds() == pytest.approx(CALLS[call].deadline_s, abs=1)
    assert properties.message_id == properties.correlation_id == event.id
    assert properties.type == event.type
    assert properties.content_type == CONTENT_TYPE
    assert properties.delivery_mode == 2
    assert properties.reply_to == topology.reply_queue("mn1", 5678)
    assert properties.user_id == shim.broker.user
    assert properties.timestamp == pytest.approx(time.time(), abs=60)


def test_a_request_larger_than_a_frame_arrives_whole(shim: Shim, peer: Peer) -> None:
    peer.answers["load"] = lambda event: [done(event, echo=event.data["note"])]
    data = {**LOAD, "note": "é€" * 40_000}
    assert shim.ask("load", data).reply["result"]["echo"] == data["note"]


def test_a_request_over_the_size_limit_is_not_sent(shim: Shim, peer: Peer) -> None:
    assert "262144 are allowed" in shim.ask("load", {**LOAD, "note": "x" * 300_000}).error
    assert peer.calls() == []


def test_the_reply_queue_is_durable_limited_and_expires(
    shim: Shim, peer: Peer, vcld_parameters: pika.ConnectionParameters
) -> None:
    answer_load(peer)
    shim.ask("load", LOAD)
    with pika.BlockingConnection(vcld_parameters) as connection:
        arguments = {"x-expires": topology.REPLY_EXPIRES_MS, "x-max-length": topology.REPLY_MAX_LENGTH}
        channel = connection.channel()
        # The broker answers 406 to a declaration that differs.
        channel.queue_declare(topology.reply_queue("mn1", 5678), durable=True, arguments=arguments)


# --- what comes back -------------------------------------------------------------------------------------------------


def test_progress_is_logged_when_its_state_changes_and_an_unknown_state_as_info(shim: Shim, peer: Peer) -> None:
    peer.answers["load"] = lambda event: [
        note(event, 1, "startload", "begin"),
        note(event, 2, "transfervm", "copying to esx2/nfs1"),
        note(event, 3, "transfervm", "copying, 50 %"),
        note(event, 4, None, "still copying"),
        note(event, 5, "polishing", "odd"),
        note(event, 6, "startvm", "on"),
        done(event),
    ]
    talk = shim.ask("load", LOAD)
    assert talk.of("loadlog") == [
        ["startload", "begin"],
        ["transfervm", "copying to esx2/nfs1"],
        ["info", "odd"],
        ["startvm", "on"],
    ]
    assert talk.of("warn") == []


def test_of_a_long_step_each_quarter_is_logged_with_its_percent(shim: Shim, peer: Peer) -> None:
    peer.answers["capture"] = lambda event: [
        note(event, 1, "info", "looking"),
        note(event, 2, "transfervm", "copying"),
        *(note(event, 3 + percent, "transfervm", "copying", percent) for percent in range(0, 101, 5)),
        note(event, 200, "transfervm", "copying", 3),
        note(event, 201, "info", "checking"),
        note(event, 202, "transfervm", "copying again", 30),
        done(event),
    ]
    assert shim.ask("capture", LOAD).of("loadlog") == [
        ["info", "looking"],
        ["transfervm", "copying"],
        *(["info", f"copying, {percent} %"] for percent in (25, 50, 75, 100)),
        ["info", "checking"],
        ["transfervm", "copying again, 30 %"],
    ]


def test_a_step_that_crawls_is_logged_now_and_then_with_its_percent(shim: Shim, peer: Peer) -> None:
    peer.answers["capture"] = lambda event: [
        note(event, 1, "info", "copying"),
        note(event, 2, "info", "copying", 1),
        note(event, 3, None, "copying"),
        note(event, 4, "info", "copying", 2),
        done(event),
    ]
    assert shim.ask("capture", LOAD, "--timing", "percent=0").of("loadlog") == [
        ["info", "copying"],
        ["info", "copying, 1 %"],
        ["info", "copying, 2 %"],
    ]


def test_a_long_step_is_written_down_again_for_the_parent_of_a_cluster(shim: Shim, peer: Peer) -> None:
    talk = shim.start("load", LOAD, "--timing", "info=0.4")
    (message,) = peer.wait_for(1)
    peer.send(message, note(message.event, 1, "transfervm", "copying", 1))
    peer.send(message, note(message.event, 2, None, "copying"))  # how far it is, it said before
    time.sleep(1)  # real time is what is tested: rows appear without a message
    peer.send(message, done(message.event))
    rows = talk.finish().of("loadlog")
    assert ["transfervm", "copying, 1 %"] in rows
    assert rows.count(["info", "copying, 1 %"]) >= 1


def test_queries_and_power_calls_write_no_progress(shim: Shim, peer: Peer) -> None:
    peer.answers["power_on"] = lambda event: [note(event, 1, "info", "switching on"), done(event, state="on")]
    assert shim.ask("power_on", LOAD).of("loadlog") == []


def test_replies_to_other_events_and_rubbish_are_dropped(shim: Shim, peer: Peer) -> None:
    talk = shim.start("load", LOAD)
    (message,) = peer.wait_for(1)
    stranger = done(message.event, private_ip="10.0.0.1")
    other = encode(stranger).replace(message.event.id.encode(), b"another-event")
    for body in (b"", b"rubbish", other, b"\xff" * 1000):
        peer.send_raw(message, body)
    peer.send(message, done(message.event, private_ip="10.77.1.27"))
    finished = talk.finish()
    assert finished.reply["result"]["private_ip"] == "10.77.1.27"
    assert len([text for text in finished.of("note") if "not one of ours" in text]) == 3


def test_a_final_reply_without_an_outcome_is_a_failure_at_once(shim: Shim, peer: Peer) -> None:
    talk = shim.start("load", LOAD)
    (message,) = peer.wait_for(1)
    peer.send_raw(message, encode(done(message.event)).replace(b'"ok"', b'"perhaps"'))
    assert "no known outcome" in talk.finish().error


def test_the_error_of_the_service_is_handed_through(shim: Shim, peer: Peer) -> None:
    peer.answers["load"] = lambda event: [refused(event, "no_capacity", "esx1 has 512 MB free")]
    reply = shim.ask("load", LOAD).reply
    assert reply["outcome"] == "failed"
    assert reply["error"]["code"] == "no_capacity"


# --- who does not answer ---------------------------------------------------------------------------------------------


def test_without_any_service_the_call_fails_at_once_and_says_how_to_start_it(
    shim: Shim, peer_parameters: pika.ConnectionParameters
) -> None:
    with pika.BlockingConnection(peer_parameters) as connection:
        connection.channel().exchange_delete(topology.EXCHANGE)
    began = time.monotonic()
    error = shim.ask("load", LOAD).error
    assert time.monotonic() - began < 5
    assert "no esxprov service has declared the exchange" in error
    assert "systemctl start esxprov" in error
    assert shim.spooled() == []


def test_without_a_service_for_this_node_the_call_fails_at_once_and_names_the_node(
    shim: Shim, peer_parameters: pika.ConnectionParameters
) -> None:
    with Peer(peer_parameters):
        pass  # a service was here and has declared the exchange
    with pika.BlockingConnection(peer_parameters) as connection:
        for queue in topology.lane_queues("mn1"):
            connection.channel().queue_delete(queue.name)
    error = shim.ask("load", LOAD).error
    assert error == "no esxprov service is listening for management node mn1: start it with systemctl start esxprov"
    assert shim.spooled() == []


def test_after_silence_the_same_event_is_published_again(shim: Shim, peer: Peer) -> None:
    talk = shim.start("load", LOAD, "--timing", "silence=0.5")
    first, second = peer.wait_for(2)
    assert first.event == second.event
    peer.send(second, done(second.event))
    assert talk.finish().reply["outcome"] == "ok"


def test_past_the_deadline_a_command_is_cancelled_and_fails(shim: Shim, peer: Peer) -> None:
    talk = shim.ask("load", LOAD, "--deadline", "0.5", "--timing", "grace=0.5")
    load, cancel = peer.wait_for(2)
    assert "did not finish in time" in talk.error
    assert cancel.event.call == "cancel"
    assert cancel.event.data == {"event": load.event.id, "reason": "the deadline is over"}
    assert shim.spooled() == []


def test_past_the_deadline_a_query_fails_without_a_cancel(shim: Shim, peer: Peer) -> None:
    talk = shim.ask("power_status", LOAD, "--deadline", "0.3", "--timing", "grace=0.3")
    assert "did not finish in time" in talk.error
    assert peer.calls() == ["power_status"]


def test_what_the_user_no_longer_wants_is_cancelled_and_its_end_awaited(shim: Shim, peer: Peer) -> None:
    talk = shim.start("load", LOAD, "--abandon-after", "0", "--timing", "wanted=0.3")
    load, cancel = peer.wait_for(2)
    assert cancel.event.data == {"event": load.event.id, "reason": "the user deleted the reservation"}
    assert cancel.properties.reply_to == load.properties.reply_to
    peer.send(cancel, done(cancel.event, cancelled=True))
    peer.send(load, refused(load.event, "cancelled", "cancelled before copy_disk", Outcome.CANCELLED))
    assert talk.finish().reply["outcome"] == "cancelled"
    assert shim.spooled() == []


def test_a_cancel_that_nobody_confirms_does_not_hold_vcld_up(shim: Shim, peer: Peer) -> None:
    options = ("--abandon-after", "0", "--timing", "wanted=0.2", "--timing", "farewell=0.5")
    assert "cancelled, because the user deleted the reservation" in shim.ask("load", LOAD, *options).error
    assert shim.spooled() == []


# --- callers that die ------------------------------------------------------------------------------------------------


def start_and_kill(shim: Shim, peer: Peer, data: dict[str, Any] = LOAD) -> Received:
    """A caller that is killed while it waits; returns its request."""
    before = len(peer.calls())
    talk = shim.start("load", data)
    message = peer.wait_for(before + 1)[-1]
    talk.kill()
    assert len(shim.spooled()) == 1
    return message


def wait_until_nobody_consumes(parameters: pika.ConnectionParameters, queue: str) -> None:
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        for _ in range(100):
            if channel.queue_declare(queue, passive=True).method.consumer_count == 0:
                return
            connection.sleep(0.05)
    raise AssertionError(f"the broker still has a consumer on {queue}")


def test_the_next_process_goes_on_with_the_event_of_a_killed_one(shim: Shim, peer: Peer) -> None:
    killed = start_and_kill(shim, peer)
    talk = shim.start("load", LOAD)
    again = peer.wait_for(2)[1]
    assert again.event == killed.event
    peer.send(again, done(again.event, private_ip="10.77.1.27"))
    assert talk.finish().reply["result"] == {"private_ip": "10.77.1.27"}
    assert shim.spooled() == []


def test_a_reply_that_came_while_nobody_listened_is_found_by_the_next_process(
    shim: Shim, peer: Peer, vcld_parameters: pika.ConnectionParameters
) -> None:
    killed = start_and_kill(shim, peer)
    wait_until_nobody_consumes(vcld_parameters, killed.properties.reply_to or "")
    peer.send(killed, done(killed.event, private_ip="10.77.1.27"))
    assert shim.ask("load", LOAD).reply["result"] == {"private_ip": "10.77.1.27"}


def test_after_a_consumed_reply_the_same_load_is_a_new_event(shim: Shim, peer: Peer) -> None:
    answer_load(peer)
    for _ in range(2):
        assert shim.ask("load", LOAD).reply["outcome"] == "ok"
    first, second = peer.wait_for(2)
    assert first.event.id != second.event.id


def test_a_reinstall_after_a_killed_load_is_a_new_event(shim: Shim, peer: Peer) -> None:
    killed = start_and_kill(shim, peer)
    answer_load(peer)
    reinstall = {**LOAD, "reservation": {**LOAD["reservation"], "state": "reinstall"}}
    assert shim.ask("load", reinstall).reply["outcome"] == "ok"
    assert peer.wait_for(2)[1].event.id != killed.event.id
    assert shim.spooled() == []


def test_without_a_usable_spool_the_call_goes_on_with_one_warning(shim: Shim, peer: Peer) -> None:
    answer_load(peer)
    shim.use(f"amqp://{shim.broker.user}@{shim.broker.host}:{shim.broker.port}/", spool="/dev/null/spool")
    talk = shim.ask("load", LOAD)
    assert talk.reply["outcome"] == "ok"
    (warning,) = talk.of("warn")
    assert "/dev/null/spool cannot be made" in warning


# --- connections that break ------------------------------------------------------------------------------------------


def through(shim: Shim, wires: list[Wire], **tls: Any) -> Wire:
    wire = Wire((shim.broker.host, shim.broker.port), **tls)
    wires.append(wire)
    shim.use(f"amqp://{shim.broker.user}@127.0.0.1:{wire.port}/")
    return wire


def test_a_lost_connection_is_made_again_and_the_same_event_published(
    shim: Shim, peer: Peer, wires: list[Wire]
) -> None:
    wire = through(shim, wires)
    talk = shim.start("load", LOAD, *QUICK)
    peer.wait_for(1)
    wire.cut()
    first, second = peer.wait_for(2)
    assert first.event == second.event
    peer.send(second, done(second.event))
    assert talk.finish().reply["outcome"] == "ok"


@pytest.mark.parametrize("farewell", [b"", b"HTTP/1.1 503 Service Unavailable\r\n\r\n"])
def test_a_broker_that_is_away_longer_than_the_first_patience_is_waited_for_once_the_event_was_sent(
    shim: Shim, peer: Peer, wires: list[Wire], farewell: bytes
) -> None:
    wire = through(shim, wires)
    wire.farewell = farewell
    talk = shim.start("load", LOAD, *QUICK)
    peer.wait_for(1)
    wire.refuse = True
    wire.cut()
    wire.wait_for_attempts(wire.accepted + 5)  # at most 0.5 s apart: longer than patience=1.5
    wire.refuse = False
    _, second = peer.wait_for(2)
    peer.send(second, done(second.event))
    assert talk.finish().reply["outcome"] == "ok"


def test_a_broker_that_was_never_reached_is_given_up_after_a_while(shim: Shim, wires: list[Wire]) -> None:
    wire = through(shim, wires)
    wire.refuse = True
    began = time.monotonic()
    error = shim.ask("load", LOAD, *QUICK).error
    assert 1 < time.monotonic() - began < 10
    assert re.match(rf"the broker at 127\.0\.0\.1:{wire.port} (closed the connection|broke off)", error)
    assert wire.accepted >= 2
    assert shim.spooled() == []


def test_a_user_who_gives_up_is_noticed_while_the_broker_is_away(shim: Shim, peer: Peer, wires: list[Wire]) -> None:
    wire = through(shim, wires)
    timing = ("--timing", "wanted=0.5", "--timing", "farewell=1", "--abandon-after", "1")
    talk = shim.start("load", LOAD, *QUICK, *timing)
    peer.wait_for(1)
    wire.refuse = True
    wire.cut()
    assert "cancelled, because the user deleted the reservation" in talk.finish(20).error


def test_what_was_given_up_while_the_broker_was_away_is_cancelled_when_it_is_back(
    shim: Shim, peer: Peer, wires: list[Wire]
) -> None:
    wire = through(shim, wires)
    talk = shim.start("load", LOAD, *QUICK, "--timing", "wanted=0.5", "--abandon-after", "1")
    (load,) = peer.wait_for(1)
    wire.refuse = True
    wire.cut()
    wire.wait_for_attempts(wire.accepted + 5)  # at most 0.5 s apart: longer than abandon-after=1
    wire.refuse = False
    cancel = peer.wait_for(2)[1]
    assert cancel.event.data == {"event": load.event.id, "reason": "the user deleted the reservation"}
    peer.send(load, refused(load.event, "cancelled", "cancelled before copy_disk", Outcome.CANCELLED))
    assert talk.finish().reply["outcome"] == "cancelled"


def test_heartbeats_keep_a_waiting_connection_alive(shim: Shim, peer: Peer) -> None:
    talk = shim.start("load", LOAD, "--heartbeat", "1")
    (message,) = peer.wait_for(1)
    time.sleep(4)  # the broker hangs up after two missed heartbeats
    peer.send(message, done(message.event))
    finished = talk.finish()
    assert finished.reply["outcome"] == "ok"
    assert finished.of("note") == []
    assert len(peer.calls()) == 1


def test_a_wrong_password_is_refused_at_once(shim: Shim) -> None:
    (shim.directory / "password").write_text("wrong")
    began = time.monotonic()
    assert "403 ACCESS_REFUSED" in shim.ask("load", LOAD).error
    assert time.monotonic() - began < 5


def test_an_absent_virtual_host_is_refused_at_once(shim: Shim) -> None:
    shim.use(f"amqp://{shim.broker.user}@{shim.broker.host}:{shim.broker.port}/nowhere")
    assert "nowhere" in shim.ask("load", LOAD).error


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("trusted"))


def encrypted(shim: Shim, wires: list[Wire], trusted: Certificates, server: ServerCertificate) -> None:
    """A TLS server with this certificate before the broker; the shim trusts what `trusted` has signed."""
    wire = through(shim, wires, tls=server.context())
    shim.use(f"amqps://{shim.broker.user}@127.0.0.1:{wire.port}/", ca_file=str(trusted.ca))


def test_tls_to_the_broker_itself(shim: Shim, peer: Peer, rabbitmq: RabbitMq) -> None:
    answer_load(peer)
    shim.use(rabbitmq.url("vcld", tls=True), ca_file=str(rabbitmq.ca))
    assert shim.ask("load", LOAD).reply["outcome"] == "ok"


def test_tls_with_the_right_authority_and_name(
    shim: Shim, peer: Peer, wires: list[Wire], trusted: Certificates
) -> None:
    peer.answers["load"] = lambda event: [done(event, echo=event.data["note"])]
    encrypted(shim, wires, trusted, trusted.server("right"))
    data = {**LOAD, "note": "x" * 200_000}
    assert shim.ask("load", data).reply["result"]["echo"] == data["note"]


def test_tls_with_another_authority_is_refused_at_once(
    shim: Shim, wires: list[Wire], trusted: Certificates, tmp_path: Path
) -> None:
    encrypted(shim, wires, trusted, Certificates(tmp_path / "stranger", "stranger").server())
    assert "certificate verify failed" in shim.ask("load", LOAD).error
    assert wires[0].accepted == 1


def test_tls_with_a_certificate_for_another_host_is_refused_at_once(
    shim: Shim, wires: list[Wire], trusted: Certificates
) -> None:
    encrypted(shim, wires, trusted, trusted.for_other_host())
    assert "hostname verification failed" in shim.ask("load", LOAD).error
    assert wires[0].accepted == 1


def test_tls_with_an_expired_certificate_is_refused_at_once(
    shim: Shim, wires: list[Wire], trusted: Certificates
) -> None:
    encrypted(shim, wires, trusted, trusted.server("expired", days=-1))
    assert "certificate verify failed" in shim.ask("load", LOAD).error
    assert wires[0].accepted == 1


def test_tls_to_a_port_that_does_not_speak_it_fails_within_the_patience(shim: Shim, trusted: Certificates) -> None:
    url = f"amqps://{shim.broker.user}@{shim.broker.host}:{shim.broker.port}/"
    shim.use(url, ca_file=str(trusted.ca))
    began = time.monotonic()
    assert "TLS" in shim.ask("load", LOAD, *QUICK).error
    assert time.monotonic() - began < 15


# --- cost ------------------------------------------------------------------------------------------------------------


def test_conversations_follow_each_other_on_one_connection(shim: Shim, peer: Peer) -> None:
    peer.answers["power_status"] = lambda event: [done(event, state="on")]
    talk = shim.ask("power_status", LOAD, "--repeat", "20")
    assert len(talk.of("milliseconds")[0]) == 20
    assert len({message.event.id for message in peer.wait_for(20)}) == 20
    assert datetime.now(UTC) >= peer.wait_for(20)[-1].event.time
