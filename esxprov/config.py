"""INI file + environment + command line -> one frozen Config. Every check of a setting lives here.

The Perl shim reads the same file (`[service] management_node` and `[vcld]`). Later sources win: the file
(`/etc/vcl/esxprov.conf`, or the one `ESXPROV_CONF` names), `ESXPROV_<SECTION>_<KEY>`, `--set section.key=value`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from bridge.parameters import BrokerParameters
from esxprov.database import DatabaseConfig
from esxprov.errors import ConfigurationError
from esxprov.model import ClusterAffinity, DiskMode, EndpointConfig, Pool, Recover, SlotRules
from esxprov.settings import Schema, Settings, Value, hidden
from esxprov.slots import names

DEFAULT_PATH = Path("/etc/vcl/esxprov.conf")
VCLD_CONF = Path("/etc/vcl/vcld.conf")


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """`management_node` is VCL's short host name of this node; the workers are threads; finished events stay
    `journal_days`.
    """

    management_node: str
    workers_slow: int = 8
    workers_fast: int = 8
    journal_days: int = 30


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """One user's way to the broker."""

    url: str
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    queue_type: str = "classic"

    @property
    def user(self) -> str:
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).username or "")


LEASE_SOURCES = ("dhcpd", "kea", "dnsmasq")


@dataclass(frozen=True, slots=True)
class LeaseFileConfig:
    """The lease file of a server of that `kind`, one of LEASE_SOURCES."""

    kind: str
    path: Path

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"


@dataclass(frozen=True, slots=True)
class LeasesConfig:
    """Where fresh DHCP leases are seen.

    In `files` of this machine, and on the `bus`: told by `esxprov leases publish`, which runs elsewhere as the broker
    user `publisher`. `conf` is dhcpd's configuration (for fixed addresses). `omapi` is where dhcpd answers questions,
    host and port. `guests`: VMware Tools are asked, too.
    """

    files: tuple[LeaseFileConfig, ...]
    conf: Path | None = None
    omapi: tuple[str, int] | None = None
    omapi_key_file: Path | None = None
    guests: bool = False
    bus: bool = False
    publisher: str = "esxprov-leases"

    def __str__(self) -> str:
        named = (("bus:", self.bus), ("tools:", self.guests))
        return ", ".join([*map(str, self.files), *(name for name, is_one in named if is_one)])


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Where questions are answered, by address and port, and what a caller must show if we do not only serve this
    machine.
    """

    host: str
    port: int
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PublisherConfig:
    """What `esxprov leases publish` needs, on a machine that may have nothing else of ours."""

    broker: BrokerConfig
    leases: LeasesConfig


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked. `path` is where they came from, for messages; `effective` is what they are, as text."""

    path: Path
    service: ServiceConfig
    broker: BrokerConfig
    vcld: BrokerConfig
    cli: BrokerConfig
    database: DatabaseConfig
    leases: LeasesConfig
    endpoints: Mapping[str, EndpointConfig]
    pools: Mapping[str, Pool]
    http: HttpConfig | None = None
    spool: Path = Path("/var/spool/esxprov")
    effective: tuple[Value, ...] = ()

    @property
    def publishers(self) -> frozenset[str]:
        """The broker users whose commands are obeyed."""
        return frozenset({self.vcld.user, self.cli.user, self.broker.user})


_SCHEMA = Schema(
    keys={
        "service": frozenset({"management_node", "workers_slow", "workers_fast", "journal_days"}),
        "broker": frozenset({"url", "password_file", "ca_file", "queue_type"}),
        "vcld": frozenset({"url", "password_file", "ca_file", "spool"}),
        "cli": frozenset({"url", "password_file", "ca_file"}),
        "database": frozenset({"host", "port", "unix_socket", "user", "password_file", "name", "ca_file"}),
        "leases": frozenset({"source", "conf", "omapi", "omapi_key_file", "publisher"}),
        "publisher": frozenset({"url", "password_file", "ca_file"}),
        "http": frozenset({"listen", "token_file"}),
        "endpoint": frozenset({"url", "user", "password_file", "ca_file", "thumbprint"}),
        "pool": frozenset(
            {
                "endpoints",
                "datacenter",
                "cluster",
                "profile",
                "golden",
                "inuse",
                "disk",
                "cpu_ratio",
                "ram_ratio",
                "reserved_ram_mb",
                "policy",
                "n_plus_one",
                "cluster_max_per_host",
                "cluster_affinity",
                "image_hosts",
                "recover",
            }
        ),
        "slots": frozenset(
            {"names", "macs", "most", "groups", "host_groups", "pool_host", "schedule", "owner", "procspeed", "network"}
        ),
    },
    named=("endpoint", "pool", "slots"),
)


def load(
    environment: Mapping[str, str],
    overrides: Iterable[str] = (),
    *,
    path: Path | None = None,
    vcld_conf: Path = VCLD_CONF,
) -> Config:
    """The configuration.

    `overrides` are `section.key=value`. Raises ConfigurationError: one sentence, naming file and key.
    """
    reader = _settings(environment, overrides, path)
    broker = _broker(reader, "broker")
    endpoints = {name: _endpoint(reader, section, name) for section, name in reader.named("endpoint")}
    pools = {name: _pool(reader, section, name, endpoints) for section, name in reader.named("pool")}
    _refuse_shared_profiles(reader.path, pools)
    for section, name in reader.named("slots"):
        if name not in pools:
            raise reader.wrong(section, "names", f"is of a pool that there is not: write a section [pool {name}]")
    _refuse_shared_macs(reader.path, pools)
    found = Config(
        path=reader.path,
        service=_service(reader),
        broker=broker,
        vcld=_user(reader, "vcld", broker),
        cli=_user(reader, "cli", broker),
        database=_database(reader, vcld_conf),
        leases=_leases(reader),
        endpoints=endpoints,
        pools=pools,
        http=_http(reader) if "http" in reader.values else None,
        spool=Path(reader.text("vcld", "spool", "/var/spool/esxprov")),
    )
    return replace(found, effective=reader.effective())


def load_database(
    environment: Mapping[str, str],
    overrides: Iterable[str] = (),
    *,
    path: Path | None = None,
    vcld_conf: Path = VCLD_CONF,
) -> DatabaseConfig:
    """Where VCL's database is, by the same file, in which the rest may be as the sample has it."""
    return _database(_settings(environment, overrides, path), vcld_conf)


def load_publisher(
    environment: Mapping[str, str], overrides: Iterable[str] = (), *, path: Path | None = None
) -> PublisherConfig:
    """What `esxprov leases publish` needs of the same file; the other sections may be missing."""
    reader = _settings(environment, overrides, path)
    leases = _leases(reader)
    if not leases.files:
        raise reader.wrong("leases", "source", f"is {str(leases)!r}, so there is no lease file here to publish from")
    return PublisherConfig(_broker(reader, "publisher"), leases)


def _settings(environment: Mapping[str, str], overrides: Iterable[str], path: Path | None) -> Settings:
    return Settings.read(path or Path(environment.get("ESXPROV_CONF") or DEFAULT_PATH), _SCHEMA, environment, overrides)


def _service(reader: Settings) -> ServiceConfig:
    node = reader.text("service", "management_node", socket.gethostname().split(".", 1)[0])
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}\Z", node):
        raise reader.wrong("service", "management_node", f"is {node!r}, expected a short host name without dots")
    return ServiceConfig(
        management_node=node,
        workers_slow=reader.number("service", "workers_slow", 8, int, 1, 256),
        workers_fast=reader.number("service", "workers_fast", 8, int, 1, 256),
        journal_days=reader.number("service", "journal_days", 30, int, 1, 3650),
    )


def _broker(reader: Settings, section: str) -> BrokerConfig:
    url = reader.text(section, "url")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname or not parts.username:
        raise reader.wrong(
            section, "url", f"is {hidden(url)!r}, expected amqp://user@host:5672/ or amqps://user@host:5671/"
        )
    if parts.password is not None:
        raise reader.wrong(section, "url", "holds a password: put it into the file that password_file names")
    try:
        BrokerParameters.from_url(url, "")
    except ValueError as error:
        raise reader.wrong(section, "url", f"cannot be used: {error}") from error
    return BrokerConfig(
        url=url,
        password=reader.secret(section),
        ca_file=reader.path_of(section, "ca_file"),
        queue_type=reader.choice(section, "queue_type", "classic", ("classic", "quorum"))
        if section == "broker"
        else "classic",
    )


def _user(reader: Settings, section: str, broker: BrokerConfig) -> BrokerConfig:
    """A broker user of its own, or the service's."""
    if reader.optional(section, "url"):
        return _broker(reader, section)
    reader.borrow(section, "broker")
    return broker


def _database(reader: Settings, vcld_conf: Path) -> DatabaseConfig:
    fallback = _vcld_database(vcld_conf)
    section = "database"
    password = fallback.pop("password", "")
    if "host" in reader.values.get(section, {}):
        # Whoever names a host means it, and not vcld's socket.
        fallback.pop("unix_socket", None)
    reader.fill(section, fallback, str(vcld_conf))
    if reader.optional(section, "password_file"):
        password = reader.secret(section)
    elif password:
        reader.hand_in(section, "password_file", str(vcld_conf))
    return DatabaseConfig(
        host=reader.text(section, "host", "127.0.0.1"),
        port=reader.number(section, "port", 3306, int, 1, 65535),
        unix_socket=reader.optional(section, "unix_socket"),
        user=reader.text(section, "user", "vcl"),
        password=password,
        name=reader.text(section, "name", "vcl"),
        ca_file=reader.path_of(section, "ca_file"),
    )


def _vcld_database(path: Path) -> dict[str, str]:
    """What vcld itself uses (vcld.conf, `key=value`): a node that runs vcld needs no [database] section."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    settings = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines if "=" in line)}
    # vcld pastes `server` into its DSN, so sites write `localhost;mysql_socket=/run/mysqld/mysqld.sock` there.
    host, _, options = settings.get("server", "").partition(";")
    found = {
        "host": host,
        "unix_socket": options.partition("mysql_socket=")[2],
        "user": settings.get("LockerWrtUser", ""),
        "password": settings.get("wrtPass", ""),
        "name": settings.get("database", ""),
    }
    return {key: value for key, value in found.items() if value}


def _leases(reader: Settings) -> LeasesConfig:
    source = reader.text("leases", "source", "dhcpd:/var/lib/dhcp/dhcpd.leases")
    names = list(dict.fromkeys(part.strip() for part in source.split(",")))
    files = []
    for name in names:
        if name in ("bus:", "tools:"):
            continue
        kind, colon, path = name.partition(":")
        if kind not in LEASE_SOURCES or not colon or not path.startswith("/"):
            expected = "dhcpd:/path/of/dhcpd.leases, kea:/path/of/kea-leases4.csv, dnsmasq:/path/of/dnsmasq.leases"
            raise reader.wrong(
                "leases", "source", f"has {name!r}, expected {expected}, bus: or tools:, or several with commas between"
            )
        files.append(LeaseFileConfig(kind, Path(path)))
    if not files and "bus:" not in names:
        raise reader.wrong("leases", "source", f"is {source!r}: VMware Tools alone are no source, name a file or bus:")
    conf = reader.optional("leases", "conf")
    if conf and not any(file.kind == "dhcpd" for file in files):
        raise reader.wrong("leases", "conf", "is set, but dhcpd's lease file is no source here: leave it out")
    return LeasesConfig(
        files=tuple(files),
        conf=Path(conf) if conf else None,
        omapi=_omapi(reader, files),
        omapi_key_file=reader.path_of("leases", "omapi_key_file"),
        guests="tools:" in names,
        bus="bus:" in names,
        publisher=reader.text("leases", "publisher", "esxprov-leases"),
    )


def _omapi(reader: Settings, files: Sequence[LeaseFileConfig]) -> tuple[str, int] | None:
    address = reader.optional("leases", "omapi")
    if address is None:
        return None
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise reader.wrong("leases", "omapi", f"is {address!r}, expected a host and a port like 127.0.0.1:7911")
    if not any(file.kind == "dhcpd" for file in files):
        raise reader.wrong("leases", "omapi", "is set, but only dhcpd speaks OMAPI and its file is no source here")
    return host, int(port)


def _http(reader: Settings) -> HttpConfig:
    listen = reader.text("http", "listen")
    host, colon, port = listen.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        address = None
    if not colon or address is None or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise reader.wrong("http", "listen", f"is {listen!r}, expected an address and a port like 127.0.0.1:8787")
    if reader.optional("http", "token_file") is None:
        if not address.is_loopback:
            raise reader.wrong(
                "http",
                "token_file",
                f"is missing: {address} can be reached from elsewhere, so write a token that callers must show into a "
                "file, and name it here",
            )
        return HttpConfig(str(address), int(port))
    token = reader.secret("http", "token_file")
    if not re.match(r"[A-Za-z0-9._~+/=-]{16,256}\Z", token):
        raise reader.wrong(
            "http", "token_file", "holds no token: write 16 to 256 letters and digits, as `openssl rand -hex 32` does"
        )
    return HttpConfig(str(address), int(port), token)


def _endpoint(reader: Settings, section: str, name: str) -> EndpointConfig:
    url = reader.text(section, "url")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise reader.wrong(section, "url", f"is {hidden(url)!r}, expected https://host/sdk")
    thumbprint = reader.optional(section, "thumbprint")
    if thumbprint and not re.match(r"[0-9a-f]{64}\Z", thumbprint.replace(":", "").lower()):
        raise reader.wrong(section, "thumbprint", "is not a SHA-256 fingerprint (64 hexadecimal digits)")
    return EndpointConfig(
        name=name,
        url=url,
        user=reader.text(section, "user"),
        password=reader.secret(section),
        ca_file=reader.path_of(section, "ca_file"),
        thumbprint=thumbprint,
    )


def _pool(reader: Settings, section: str, name: str, endpoints: Mapping[str, EndpointConfig]) -> Pool:
    members = tuple(part.strip() for part in reader.text(section, "endpoints").split(",") if part.strip())
    for member in members:
        if member not in endpoints:
            raise reader.wrong(section, "endpoints", f"names {member!r}, but there is no section [endpoint {member}]")
    return Pool(
        name=name,
        endpoints=members,
        profile=reader.text(section, "profile"),
        datacenter=reader.optional(section, "datacenter"),
        cluster=reader.optional(section, "cluster"),
        golden=_directory(reader, section, "golden"),
        inuse=_directory(reader, section, "inuse"),
        disk=DiskMode(reader.choice(section, "disk", "copy", ("copy", "linked"))),
        cpu_ratio=reader.number(section, "cpu_ratio", 4.0, float, 0.1, 100),
        ram_ratio=reader.number(section, "ram_ratio", 1.0, float, 0.1, 10),
        reserved_ram_mb=reader.number(section, "reserved_ram_mb", 1024, int, 0, 2**24),
        policy=reader.choice(section, "policy", "pack", ("pack", "spread")),
        n_plus_one=reader.choice(section, "n_plus_one", "no", ("yes", "no")) == "yes",
        cluster_max_per_host=reader.number(section, "cluster_max_per_host", 0, int, 0, 1000) or None,
        cluster_affinity=ClusterAffinity(reader.choice(section, "cluster_affinity", "none", tuple(ClusterAffinity))),
        image_hosts=_image_hosts(reader, section),
        recover=Recover(reader.choice(section, "recover", "power-on", tuple(Recover))),
        slots=_slots(reader, f"slots {name}", name) if f"slots {name}" in reader.values else None,
    )


_USUAL_SLOTS = SlotRules("", 0)


def _slots(reader: Settings, section: str, pool: str) -> SlotRules:
    most = reader.number(section, "most", 500, int, 1, 10_000)
    rules = SlotRules(
        names=reader.text(section, "names").lower(),
        first_mac=_mac(reader, section),
        most=most,
        groups=_listed(reader, section, "groups", _USUAL_SLOTS.groups),
        host_groups=_listed(reader, section, "host_groups", _USUAL_SLOTS.host_groups),
        pool_host=(reader.optional(section, "pool_host") or "").lower(),
        schedule=reader.text(section, "schedule", _USUAL_SLOTS.schedule),
        owner=reader.text(section, "owner", _USUAL_SLOTS.owner),
        procspeed=reader.number(section, "procspeed", _USUAL_SLOTS.procspeed, int, 500, 10_000),
        network=int(reader.choice(section, "network", str(_USUAL_SLOTS.network), ("10", "100", "1000", "10000"))),
    )
    wrong = names.wrong_pattern(rules.names, most)
    if wrong:
        raise reader.wrong(section, "names", f"is {rules.names!r}: {wrong}")
    if not rules.pool_host:
        rules = replace(rules, pool_host=f"esxprov-{pool.lower()}.{rules.names.partition('.')[2]}")
    wrong = names.wrong_hostname(rules.pool_host)
    if wrong:
        raise reader.wrong(section, "pool_host", f"is {rules.pool_host!r}: {wrong}; set it to another name")
    if rules.first_mac + 2 * most - 1 > names.LAST_MAC:
        raise reader.wrong(
            section,
            "macs",
            f"and most = {most} reach over {names.mac(names.LAST_MAC)}, the last address for static use: begin lower",
        )
    return rules


def _mac(reader: Settings, section: str) -> int:
    value = reader.text(section, "macs").lower().replace("-", ":")
    if re.match(r"([0-9a-f]{2}:){5}[0-9a-f]{2}\Z", value):
        number = int(value.replace(":", ""), 16)
        if names.FIRST_MAC <= number <= names.LAST_MAC:
            return number
    span = f"{names.mac(names.FIRST_MAC)} to {names.mac(names.LAST_MAC)}"
    raise reader.wrong(
        section,
        "macs",
        f"is {value!r}, expected the first MAC address, from {span} (what VMware leaves for static use)",
    )


def _listed(reader: Settings, section: str, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = reader.optional(section, key)
    if value is None:
        return default
    return tuple(dict.fromkeys(filter(None, map(str.strip, value.split(",")))))


def _refuse_shared_macs(path: Path, pools: Mapping[str, Pool]) -> None:
    spans = sorted(
        (pool.slots.first_mac, pool.slots.first_mac + 2 * pool.slots.most - 1, pool.name)
        for pool in pools.values()
        if pool.slots
    )
    for (_, last, one), (first, _, other) in pairwise(spans):
        if first <= last:
            raise ConfigurationError(
                f"{path}: [slots {one}] has the MAC addresses up to {names.mac(last)}, [slots {other}] begins at "
                f"{names.mac(first)}: give each pool a range of its own"
            )


def _image_hosts(reader: Settings, section: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """`gpu-*: blade1 blade2; win-*: blade3`"""
    rules = []
    for rule in filter(None, map(str.strip, (reader.optional(section, "image_hosts") or "").split(";"))):
        pattern, colon, hosts = map(str.strip, rule.partition(":"))
        if not pattern or not colon or not hosts or " " in pattern:
            wanted = "a pattern and names of hosts, like gpu-*: blade1 blade2"
            raise reader.wrong(section, "image_hosts", f"has the rule {rule!r}, expected {wanted}")
        rules.append((pattern, tuple(hosts.split())))
    return tuple(rules)


def _directory(reader: Settings, section: str, key: str) -> str:
    value = reader.text(section, key, key)
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*\Z", value):
        raise reader.wrong(section, key, f"is {value!r}, expected a directory on the datastore, like {key}")
    return value


def _refuse_shared_profiles(path: Path, pools: Mapping[str, Pool]) -> None:
    owner: dict[str, str] = {}
    for pool in pools.values():
        if pool.profile in owner:
            raise ConfigurationError(
                f"{path}: [pool {owner[pool.profile]}] and [pool {pool.name}] both have the profile {pool.profile!r}; "
                "each VM host profile belongs to one pool"
            )
        owner[pool.profile] = pool.name
