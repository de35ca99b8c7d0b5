"""The broker: does each user get in, may he do what he must, is there what the service declares, and a service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import metadata

from bridge.amqp.probe import Forbidden, NoPermissions, Probe, probing
from bridge.client import Client, NoReply, NoService
from bridge.contract import Lane
from bridge.message import BrokerRefused, BrokerUnavailable
from bridge.topology import CLI_REPLY_PREFIX, DEAD, EXCHANGE, VCLD_REPLY_PREFIX, lane_queue, service_topology
from bridge.users import permissions
from esxprov.broker import broker_parameters
from esxprov.config import BrokerConfig, Config
from esxprov.doctor.finding import Finding, Section, Sign, ok, warn, wrong
from esxprov.doctor.patient import Patient
from esxprov.replay import event_of

START = "systemctl start esxprov"
RESTART = "systemctl restart esxprov"

ANSWER_S = 5.0
"""How long the service may take to answer a ping: that is asked on the fast lane, and looks at nothing."""

_USERS = {"service": "esxprov", "vcld": "vcld", "cli": "esxprov-cli"}
"""What the installation calls the users, by what they do; a site may call them otherwise."""


def sections(patient: Patient) -> list[Section]:
    """One for each user, side by side."""
    config = patient.config
    service = Section(
        (
            "broker.login.service",
            "broker.permissions.service",
            "broker.topology",
            "broker.dead",
            "service.consumers",
            "service.version",
        ),
        lambda: _service(config),
    )
    others = [
        Section((f"broker.login.{role}", f"broker.permissions.{role}"), _of(role, user, config, tries))
        for role, user, tries in (("vcld", config.vcld, _as_vcld), ("cli", config.cli, _as_cli))
    ]
    return [service, *others]


def _of(
    role: str, user: BrokerConfig, config: Config, tries: Callable[[Probe, str], None]
) -> Callable[[], Iterator[Finding]]:
    return lambda: _user(role, user, config, tries)


def _service(config: Config) -> Iterator[Finding]:
    node = config.service.management_node
    for finding in _user("service", config.broker, config, _as_service):
        yield finding
        if finding.sign is Sign.WRONG:
            return
    with probing(broker_parameters(config.broker), "esxprov doctor") as probe:
        yield from _topology(probe, node, config.broker.queue_type)
        if (dead := probe.depth(DEAD)) is not None:
            text = f"{dead.messages} message(s) were parked instead of obeyed"
            parked = warn("broker.dead", text, "esxprov dead list")
            yield parked if dead.messages else ok("broker.dead", "nothing is parked")
        depth = probe.depth(lane_queue(node, Lane.FAST))
    # With all workers at work nothing is taken from the slow lane for a while, but always from the fast one.
    if depth is None or not depth.consumers:
        yield wrong("service.consumers", f"no service takes the calls for node {node}", START)
        return
    yield ok("service.consumers", f"{depth.consumers} service(s) take the calls for node {node}")
    yield from _version(config)


def _version(config: Config) -> Iterator[Finding]:
    """Asks as the command line does; what keeps its user from that is said elsewhere."""
    check, node = "service.version", config.service.management_node
    try:
        with Client(broker_parameters(config.cli), node, connect_s=ANSWER_S, grace_s=0) as client:
            reply = client.call(event_of("ping", b"{}", node), timeout_s=ANSWER_S).data
    except (NoReply, NoService) as error:
        yield wrong(check, str(error), "journalctl -u esxprov")
        return
    except BrokerUnavailable:
        return
    theirs, ours = reply.get("result", {}).get("version"), metadata.version("esxprov")
    if theirs == ours:
        yield ok(check, f"the service answers, and has version {ours}")
    else:
        yield wrong(check, f"the service that runs has version {theirs}, this program {ours}", RESTART)


def _user(role: str, user: BrokerConfig, config: Config, tries: Callable[[Probe, str], None]) -> Iterator[Finding]:
    """Login and permissions of one user."""
    login, may = f"broker.login.{role}", f"broker.permissions.{role}"
    section = {"service": "broker"}.get(role, role)
    node = config.service.management_node
    try:
        with probing(broker_parameters(user), "esxprov doctor") as probe:
            yield ok(login, f"user {user.user} gets in")
            try:
                tries(probe, node)
            except Forbidden as error:
                yield wrong(may, f"user {user.user} may not do all that {role} does: {error}", _grant(role, user, node))
            else:
                yield ok(may, f"user {user.user} may do what it must")
    except NoPermissions as error:
        yield ok(login, f"the password of user {user.user} is right")
        yield wrong(may, str(error), _grant(role, user, node))
    except BrokerRefused as error:
        password = f"rabbitmqctl change_password {user.user}   # to the one in [{section}] password_file"
        cure = f"correct url or ca_file in [{section}]" if "certificate" in str(error) else password
        yield wrong(login, str(error), cure)
    except BrokerUnavailable as error:
        yield wrong(login, str(error), f"start RabbitMQ there, or correct url in [{section}]")


def _grant(role: str, user: BrokerConfig, node: str) -> str:
    may = permissions(node)[_USERS[role]]
    host = broker_parameters(user).virtual_host
    where = "" if host == "/" else f"-p '{host}' "
    return f"rabbitmqctl set_permissions {where}{user.user} '{may.configure}' '{may.write}' '{may.read}'"


def _as_service(probe: Probe, node: str) -> None:
    queue = probe.make("esxprov.")
    probe.bind(queue, EXCHANGE, f"{node}.doctor")
    probe.read(queue)
    probe.write(EXCHANGE, f"{node}.nobody-is-bound-to-this")
    probe.write("", f"esxprov.cli.{node}-is-not-there")


def _as_vcld(probe: Probe, node: str) -> None:
    probe.read(probe.make(f"{VCLD_REPLY_PREFIX}{node}."))
    probe.write(EXCHANGE, f"{node}.nobody-is-bound-to-this")


def _as_cli(probe: Probe, node: str) -> None:
    probe.read(probe.make(CLI_REPLY_PREFIX))
    probe.write(EXCHANGE, f"{node}.nobody-is-bound-to-this")
    probe.read(DEAD)


def _topology(probe: Probe, node: str, queue_type: str) -> Iterator[Finding]:
    check = "broker.topology"
    wanted = service_topology(node, queue_type).queues
    if not probe.has_exchange(EXCHANGE):
        yield wrong(check, f"there is no exchange {EXCHANGE}: the service, which declares it, never ran here", START)
        return
    missing = [queue.name for queue in wanted if probe.depth(queue.name) is None]
    if missing:
        yield wrong(check, f"there is no queue {', '.join(missing)}, which the service declares", RESTART)
        return
    other = [queue for queue in wanted if not probe.is_as(queue)]
    for queue in other:
        cure = f"rabbitmqctl delete_queue {queue.name}   # once it is empty; then {RESTART}"
        kind = queue.arguments["x-queue-type"]
        yield wrong(check, f"the queue {queue.name} is not of type {kind}, as the service declares it", cure)
    if not other:
        yield ok(check, f"the exchange and {len(wanted)} queues are there")
