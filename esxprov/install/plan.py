"""What `esxprov install` does, in order, and what it leaves to the admin."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bridge import users
from esxprov import schema
from esxprov.database import Database
from esxprov.errors import ConfigurationError
from esxprov.install import shipped, vcl
from esxprov.install.actions import Action, Copies, Directory, Kept, Link, Text, password
from esxprov.install.system import System

PASSWORDS = {"esxprov": "broker.password", "vcld": "vcld.password", "esxprov-cli": "cli.password"}
"""By broker user, the file in /etc/vcl/esxprov."""

_PACKAGE = "package VCL::Module::Provisioning::esxprov"
_UNIT = "Description=ESX provisioning for Apache VCL\n"


@dataclass(frozen=True, slots=True)
class Place:
    """Where to install. `root` is put before every path but those that links lead to; `vcl` is VCL's own directory
    on the node, as vcld sees it. The shim is `copied` or linked; None stands for both, of which one is there to be
    taken away. `pages`: texts by the path they go to, with the mark each has in every version.
    """

    root: Path
    system: System
    vcl: Path = Path("/usr/local/vcl")
    copied: bool | None = False
    pages: tuple[tuple[Path, str, str], ...] = ()

    def at(self, path: Path | str) -> Path:
        return self.root / str(path).lstrip("/")


@dataclass(frozen=True, slots=True)
class Tables:
    """Our tables. They stay when the rest goes: they hold what is promised to whom, and what was done."""

    database: Database

    @property
    def what(self) -> str:
        return f"tables esxprov_... in {self.database.config.address}"

    def is_done(self) -> bool:
        known = schema.applied(self.database)
        schema.refuse_newer(known)
        return known == schema.migrations()[-1].version

    def do(self) -> None:
        schema.upgrade(self.database)

    def is_ours(self) -> bool:
        return False

    def undo(self) -> None:
        """They are the site's."""


@dataclass(frozen=True, slots=True)
class Registration:
    """The rows by which VCL knows us."""

    database: Database

    @property
    def what(self) -> str:
        return f"module and provisioning engine esxprov in {self.database.config.address}"

    def is_done(self) -> bool:
        return all(step.was_there for step in vcl.registered(self.database))

    def do(self) -> None:
        vcl.register(self.database)

    def is_ours(self) -> bool:
        return any(step.was_there for step in vcl.unregister(self.database, dry_run=True))

    def undo(self) -> None:
        vcl.unregister(self.database)


def actions(place: Place, database: Database | None) -> list[Action]:
    """In an order in which each may be the last one: what others need first. Without a database, files only."""
    etc = place.at("/etc/vcl/esxprov")
    found: list[Action] = [Directory(etc, 0o750)]
    found += [password(etc / name) for name in PASSWORDS.values()]
    found += [Kept(place.at("/etc/vcl/esxprov.conf"), configuration(place.system), 0o640)]
    found += [Directory(place.at("/var/spool/esxprov"), 0o700)]
    if database is not None:
        found.append(Tables(database))
    found += _shim(place)
    unit = shipped.unit("esxprov.service").replace("isc-dhcp-server.service", place.system.dhcpd)
    found += [Text(place.at("/etc/systemd/system/esxprov.service"), unit, _UNIT)]
    found += [Text(place.at(path), text, mark) for path, text, mark in place.pages]
    if database is not None:
        found.append(Registration(database))
    return found


def _shim(place: Place) -> Iterator[Action]:
    library = place.at(place.vcl / "lib")
    if not (library / shipped.PROVISIONERS).is_dir():
        raise ConfigurationError(
            f"{library / shipped.PROVISIONERS} is no directory: name that of VCL's management node code with --vcl"
        )
    folder = shipped.PROVISIONERS / "esxprov"
    if not place.copied:
        yield Link(library / folder, shipped.shim() / folder)
        yield Link(library / f"{folder}.pm", shipped.shim() / f"{folder}.pm")
    if place.copied is False:
        return
    texts = [(library / one, (shipped.shim() / one).read_text(encoding="utf-8")) for one in shipped.modules()]
    yield Copies(library / folder, tuple(Text(path, text, _PACKAGE) for path, text in texts))


def configuration(system: System) -> str:
    """The sample, with what is known of this machine."""
    sample = shipped.text("esxprov.conf").replace("management_node = mn1", f"management_node = {node()}")
    return sample.replace("/var/lib/dhcp/dhcpd.leases", str(system.leases))


def node() -> str:
    """This machine's short host name, which is what VCL calls the node."""
    return socket.gethostname().split(".", 1)[0]


def what_is_left(place: Place) -> str:
    """What the admin does then, as lines for a shell and for dhcpd.conf."""
    etc = "/etc/vcl/esxprov"
    lines = ["On the broker's machine, with the three password files:", ""]
    lines += [f"    {line}" for line in users.commands(node(), {u: f"{etc}/{name}" for u, name in PASSWORDS.items()})]
    lines += [
        "",
        "In dhcpd.conf, for the private subnet:",
        "",
        "    dhcp-cache-threshold 0;",
        "    allow unknown-clients;",
        "    range FIRST LAST;",
        "",
        "Then name your endpoints and pools, and start:",
        "",
        f"    editor {etc}.conf",
        "    esxprov check-config",
        "    systemctl daemon-reload",
        "    systemctl enable esxprov",
        "    systemctl restart esxprov",
        "    esxprov hosts",
    ]
    if place.system.selinux:
        paths = f"{etc} {etc}.conf /var/spool/esxprov {place.vcl}/lib"
        lines += ["", "With SELinux, once:", "", f"    restorecon -R {paths}"]
    return "\n".join(lines)
