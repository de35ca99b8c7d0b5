"""INI file + environment + command line -> one frozen Config. Every check of a setting lives here.

The Perl shim reads the same file (`[service] management_node` and `[vcld]`). Later sources win: the file
(`/etc/vcl/esxprov.conf`, or the one `ESXPROV_CONF` names), `ESXPROV_<SECTION>_<KEY>`, `--set section.key=value`.
"""

from __future__ import annotations

import configparser
import difflib
import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge.parameters import BrokerParameters
from esxprov.database import DatabaseConfig
from esxprov.errors import ConfigurationError
from esxprov.model import ClusterAffinity, DiskMode, EndpointConfig, Pool

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
class LeasesConfig:
    """Where fresh DHCP leases are seen.

    `path` is the lease file of a server of that `kind`, one of LEASE_SOURCES; `conf` is dhcpd's configuration (for
    fixed addresses). `omapi` is where dhcpd answers questions, host and port. `guests`: VMware Tools are asked, too.
    """

    kind: str
    path: Path
    conf: Path | None = None
    omapi: tuple[str, int] | None = None
    omapi_key_file: Path | None = None
    guests: bool = False


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Where questions are answered, by address and port, and what a caller must show if we do not only serve this
    machine.
    """

    host: str
    port: int
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked. `path` is where they came from, for messages."""

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

    @property
    def publishers(self) -> frozenset[str]:
        """The broker users whose commands are obeyed."""
        return frozenset({self.vcld.user, self.cli.user, self.broker.user})


_KEYS: dict[str, frozenset[str]] = {
    "service": frozenset({"management_node", "workers_slow", "workers_fast", "journal_days"}),
    "broker": frozenset({"url", "password_file", "ca_file", "queue_type"}),
    "vcld": frozenset({"url", "password_file", "ca_file", "spool"}),
    "cli": frozenset({"url", "password_file", "ca_file"}),
    "database": frozenset({"host", "port", "unix_socket", "user", "password_file", "name", "ca_file"}),
    "leases": frozenset({"source", "conf", "omapi", "omapi_key_file"}),
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
        }
    ),
}
_NAMED = ("endpoint", "pool")
"""Sections of which there are several: `[endpoint esx1]`."""


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
    chosen = path or Path(environment.get("ESXPROV_CONF") or DEFAULT_PATH)
    values = _read_file(chosen)
    _apply_environment(values, environment)
    _apply_overrides(values, overrides)
    reader = _Reader(chosen, values)
    reader.refuse_unknown()
    broker = _broker(reader, "broker")
    endpoints = {name: _endpoint(reader, section, name) for section, name in reader.named("endpoint")}
    pools = {name: _pool(reader, section, name, endpoints) for section, name in reader.named("pool")}
    _refuse_shared_profiles(chosen, pools)
    return Config(
        path=chosen,
        service=_service(reader),
        broker=broker,
        vcld=_broker(reader, "vcld") if "url" in values.get("vcld", {}) else broker,
        cli=_broker(reader, "cli") if "url" in values.get("cli", {}) else broker,
        database=_database(reader, vcld_conf),
        leases=_leases(reader),
        endpoints=endpoints,
        pools=pools,
        http=_http(reader) if "http" in values else None,
    )


# --- sources ---------------------------------------------------------------------------------------------------------


def _read_file(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), inline_comment_prefixes=("#",))
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}): write it, or name another file in ESXPROV_CONF"
        ) from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not an INI file: {str(error).splitlines()[0]}") from error
    return {_squeeze(section): dict(parser[section]) for section in parser.sections()}


def _squeeze(section: str) -> str:
    return " ".join(section.split())


def _apply_environment(values: dict[str, dict[str, str]], environment: Mapping[str, str]) -> None:
    names = {_variable(section): section for section in [*_KEYS, *values] if section not in _NAMED}
    for variable, value in environment.items():
        for prefix, section in names.items():
            key = variable.removeprefix(prefix + "_").lower()
            if variable.startswith(prefix + "_") and key in _KEYS[section.split(" ", 1)[0]]:
                values.setdefault(section, {})[key] = value


def _variable(section: str) -> str:
    return "ESXPROV_" + re.sub(r"[^A-Za-z0-9]", "_", section).upper()


def _apply_overrides(values: dict[str, dict[str, str]], overrides: Iterable[str]) -> None:
    for override in overrides:
        name, equals, value = override.partition("=")
        section, dot, key = name.rpartition(".")
        if not equals or not dot:
            raise ConfigurationError(
                f"--set {override!r} is not of the form section.key=value, like service.workers_slow=4"
            )
        values.setdefault(_squeeze(section), {})[key.strip()] = value


# --- checks ----------------------------------------------------------------------------------------------------------


class _Reader:
    """Settings by section and key, with errors that name file, section and key."""

    def __init__(self, path: Path, values: dict[str, dict[str, str]]) -> None:
        self.path = path
        self.values = values

    def refuse_unknown(self) -> None:
        for section, keys in self.values.items():
            kind, _, name = section.partition(" ")
            if kind not in _KEYS or (kind in _NAMED) != bool(name):
                shown = [f"{known} NAME" if known in _NAMED else known for known in _KEYS]
                raise ConfigurationError(f"{self.path}: there is no section [{section}]{_nearest(section, shown)}")
            for key in keys:
                if key not in _KEYS[kind]:
                    raise ConfigurationError(
                        f"{self.path}: [{section}] has no key {key!r}{_nearest(key, sorted(_KEYS[kind]))}"
                    )

    def named(self, kind: str) -> list[tuple[str, str]]:
        return [(section, section.partition(" ")[2]) for section in self.values if section.startswith(kind + " ")]

    def text(self, section: str, key: str, default: str | None = None) -> str:
        value = self.values.get(section, {}).get(key, default)
        if value is None or value == "":
            raise self.wrong(section, key, "is missing")
        return value

    def optional(self, section: str, key: str) -> str | None:
        return self.values.get(section, {}).get(key) or None

    def path_of(self, section: str, key: str) -> Path | None:
        value = self.optional(section, key)
        if value is None:
            return None
        if not Path(value).is_file():
            raise self.wrong(section, key, f"names {value}, which is not a file")
        return Path(value)

    def number(
        self, section: str, key: str, default: float, kind: Callable[[str], Any], least: float, most: float
    ) -> Any:
        value = self.values.get(section, {}).get(key)
        if value is None:
            return default
        try:
            number = kind(value)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            wanted = "a whole number" if kind is int else "a number"
            raise self.wrong(section, key, f"is {value!r}, expected {wanted} from {least:g} to {most:g}")
        return number

    def choice(self, section: str, key: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(section, key, default)
        if value not in choices:
            raise self.wrong(section, key, f"is {value!r}, expected {' or '.join(choices)}")
        return value

    def secret(self, section: str, key: str = "password_file") -> str:
        path = self.path_of(section, key)
        if path is None:
            raise self.wrong(section, key, "is missing")
        try:
            if path.stat().st_mode & 0o007:
                raise self.wrong(section, key, f"names {path}, which everybody may read: chmod 640 it")
            return path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise self.wrong(section, key, f"names {path}, which cannot be read: {error}") from error

    def wrong(self, section: str, key: str, what: str) -> ConfigurationError:
        return ConfigurationError(f"{self.path}: [{section}] {key} {what}")


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known)}"


def _service(reader: _Reader) -> ServiceConfig:
    node = reader.text("service", "management_node", socket.gethostname().split(".", 1)[0])
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}\Z", node):
        raise reader.wrong("service", "management_node", f"is {node!r}, expected a short host name without dots")
    return ServiceConfig(
        management_node=node,
        workers_slow=reader.number("service", "workers_slow", 8, int, 1, 256),
        workers_fast=reader.number("service", "workers_fast", 8, int, 1, 256),
        journal_days=reader.number("service", "journal_days", 30, int, 1, 3650),
    )


def _broker(reader: _Reader, section: str) -> BrokerConfig:
    url = reader.text(section, "url")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname or not parts.username:
        raise reader.wrong(
            section, "url", f"is {_hidden(url)!r}, expected amqp://user@host:5672/ or amqps://user@host:5671/"
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


def _hidden(url: str) -> str:
    """A URL fit for a message: without the password somebody may have left in it."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", url)


def _database(reader: _Reader, vcld_conf: Path) -> DatabaseConfig:
    fallback = _vcld_database(vcld_conf)
    section = "database"
    password = reader.secret(section) if reader.optional(section, "password_file") else fallback.get("password", "")
    return DatabaseConfig(
        host=reader.text(section, "host", fallback.get("host", "127.0.0.1")),
        port=reader.number(section, "port", 3306, int, 1, 65535),
        unix_socket=reader.optional(section, "unix_socket") or fallback.get("unix_socket"),
        user=reader.text(section, "user", fallback.get("user", "vcl")),
        password=password,
        name=reader.text(section, "name", fallback.get("name", "vcl")),
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


def _leases(reader: _Reader) -> LeasesConfig:
    source = reader.text("leases", "source", "dhcpd:/var/lib/dhcp/dhcpd.leases")
    kinds = dict.fromkeys(part.strip() for part in source.split(","))
    guests = kinds.pop("tools:", False) is None
    kind, colon, path = next(iter(kinds), "").partition(":")
    if len(kinds) != 1 or kind not in LEASE_SOURCES or not colon or not path.startswith("/"):
        expected = "dhcpd:/path/of/dhcpd.leases, kea:/path/of/kea-leases4.csv or dnsmasq:/path/of/dnsmasq.leases"
        expected += ", and perhaps ', tools:' behind it"
        raise reader.wrong("leases", "source", f"is {source!r}, expected {expected}")
    conf = reader.optional("leases", "conf")
    return LeasesConfig(
        kind=kind,
        path=Path(path),
        conf=Path(conf) if conf else None,
        omapi=_omapi(reader, kind),
        omapi_key_file=reader.path_of("leases", "omapi_key_file"),
        guests=guests,
    )


def _omapi(reader: _Reader, kind: str) -> tuple[str, int] | None:
    address = reader.optional("leases", "omapi")
    if address is None:
        return None
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise reader.wrong("leases", "omapi", f"is {address!r}, expected a host and a port like 127.0.0.1:7911")
    if kind != "dhcpd":
        raise reader.wrong("leases", "omapi", f"is set, but {kind} does not speak OMAPI: leave it out")
    return host, int(port)


def _http(reader: _Reader) -> HttpConfig:
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


def _endpoint(reader: _Reader, section: str, name: str) -> EndpointConfig:
    url = reader.text(section, "url")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise reader.wrong(section, "url", f"is {_hidden(url)!r}, expected https://host/sdk")
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


def _pool(reader: _Reader, section: str, name: str, endpoints: Mapping[str, EndpointConfig]) -> Pool:
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
    )


def _image_hosts(reader: _Reader, section: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """`gpu-*: blade1 blade2; win-*: blade3`"""
    rules = []
    for rule in filter(None, map(str.strip, (reader.optional(section, "image_hosts") or "").split(";"))):
        pattern, colon, hosts = map(str.strip, rule.partition(":"))
        if not pattern or not colon or not hosts or " " in pattern:
            wanted = "a pattern and names of hosts, like gpu-*: blade1 blade2"
            raise reader.wrong(section, "image_hosts", f"has the rule {rule!r}, expected {wanted}")
        rules.append((pattern, tuple(hosts.split())))
    return tuple(rules)


def _directory(reader: _Reader, section: str, key: str) -> str:
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
