"""The broker: does each user get in, may he do what he must, and is there what the service declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bridge.amqp.probe import Forbidden, Probe, probing
from bridge.contract import Lane
from bridge.message import BrokerRefused, BrokerUnavailable
from bridge.permissions import permissions
from bridge.topology import CLI_REPLY_PREFIX, DEAD, EXCHANGE, VCLD_REPLY_PREFIX, lane_queue, service_topology
from esxprov.broker import broker_parameters
from esxprov.config import BrokerConfig, Config
from esxprov.doctor.finding import Finding, Section, ok, warn, wrong
from esxprov.doctor.patient import Patient

START = "systemctl start esxprov"


def sections(patient: Patient) -> list[Section]:
    """One for each user, so that a silent broker is waited for once."""
    config = patient.config
    service = Section(
        (
            "broker.login.service",
            "broker.permissions.service",
            "broker.topology",
            "broker.dead",
            "service.consumers",
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
        if finding.cure:
            return
    with probing(broker_parameters(config.broker), "esxprov doctor") as probe:
        yield from _topology(probe, node, config.broker.queue_type)
        if (dead := probe.depth(DEAD)) is not None:
            text = f"{dead.messages} message(s) were parked instead of obeyed"
            parked = warn("broker.dead", text, "esxprov dead list")
            yield parked if dead.messages else ok("broker.dead", "nothing is parked")
        yield from _consumers(probe, node)


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
    except BrokerRefused as error:
        cure = f"rabbitmqctl change_password {user.user}   # the one in [{section}] password_file"
        yield wrong(login, str(error), cure)
    except BrokerUnavailable as error:
        yield wrong(login, str(error), "systemctl start rabbitmq-server")


def _grant(role: str, user: BrokerConfig, node: str) -> str:
    may = permissions(node)[role]
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
        restart = START.replace("start", "restart")
        yield wrong(check, f"there is no queue {', '.join(missing)}, which the service declares", restart)
        return
    other = [queue.name for queue in wanted if not probe.is_as(queue)]
    for name in other:
        cure = f"rabbitmqctl delete_queue {name}   # once it is empty; then {START.replace('start', 'restart')}"
        yield wrong(check, f"the queue {name} is of another type than [broker] queue_type = {queue_type} says", cure)
    if not other:
        yield ok(check, f"the exchange and {len(wanted)} queues are there")


def _consumers(probe: Probe, node: str) -> Iterator[Finding]:
    """A service with all workers at work takes nothing from the slow lane for a while, but always from the fast one."""
    depth = probe.depth(lane_queue(node, Lane.FAST))
    if depth is None or not depth.consumers:
        yield wrong("service.consumers", f"no service takes the calls for node {node}", START)
    else:
        yield ok("service.consumers", f"{depth.consumers} service(s) take the calls for node {node}")
