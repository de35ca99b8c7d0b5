"""Whether fresh leases will be seen on this machine: the file, the events of its directory, dhcpd's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from esxprov.leases import conf
from esxprov.leases.conf import Finding, Statement
from esxprov.leases.omapi import Omapi, OmapiError
from esxprov.leases.watcher import tells

_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse", "fuse.sshfs", "fuse.glusterfs")
"""What is written on another machine to such a file system raises no event here."""


def of_file(path: Path) -> Iterator[Finding]:
    """The lease file: can it be read, and is what happens to it told."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        cure = "start the DHCP server, or name the file it writes in [leases] source"
        yield Finding(str(path), "there is no such file", cure, is_serious=True)
        return
    except OSError as error:
        cure = "let the service's user read it, by the directory's default ACL: the file is made anew every hour"
        yield Finding(str(path), f"it cannot be read ({error.strerror})", cure, is_serious=True)
        return
    yield Finding(str(path), "it can be read")
    kind = file_system(path, Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"))
    if kind in _REMOTE:
        yield Finding(
            str(path.parent),
            f"it is on {kind}: what another machine writes there is seen by a look every 10 s only",
            "run 'esxprov leases publish' on the machine of the DHCP server",
        )
    elif tells(path):
        yield Finding(str(path.parent), "events arrive")
    else:
        yield Finding(
            str(path.parent),
            "no event arrives: leases are seen by a look every 10 s only",
            "mount the directory, not the file alone; see fs.inotify.max_user_watches",
        )


def of_conf(path: Path, *, ends_old: bool) -> Iterator[Finding]:
    """dhcpd's configuration with what it includes."""
    try:
        statements = tuple(_read(path, {path}))
    except OSError as error:
        cure = "let the service's user read it, or correct [leases] conf"
        yield Finding(str(path), f"it cannot be read ({error.strerror})", cure, is_serious=True)
        return
    yield from conf.findings(statements, ends_old=ends_old)


def of_omapi(omapi: Omapi) -> Finding:
    """Whether dhcpd answers: it is asked for an address that it need not have."""
    try:
        omapi.lease("192.0.2.1")
    except OmapiError as error:
        cure = "omapi-port and omapi-key in dhcpd.conf, or [leases] omapi"
        return Finding("OMAPI", str(error), cure, is_serious=True)
    return Finding("OMAPI", "dhcpd answers")


def of_bus(publishers: Mapping[str, str]) -> Iterator[Finding]:
    """Those who have answered on the bus, and what they say of a MAC that nobody has."""
    for by in sorted(publishers):
        yield Finding("bus", f"{by} answers")
    if not publishers:
        cure = "run 'esxprov leases publish' on the machine of the DHCP server"
        yield Finding("bus", "nobody who sees leases answers there", cure, is_serious=True)


def _read(path: Path, seen: set[Path]) -> Iterator[Statement]:
    statements = conf.parse(path.read_text(encoding="utf-8", errors="replace"))
    yield from statements
    for name in conf.includes(statements):
        included = path.parent / name
        if included not in seen:
            seen.add(included)
            yield from _read(included, seen)


def file_system(path: Path, mountinfo: str) -> str:
    """The type of the file system that a path is on, of the text of /proc/self/mountinfo; "" if that is not known."""
    real, found = str(path.resolve()), ("", "")
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split(" ", 1)[0]
        if len(fields) < 5:
            continue
        point = fields[4].encode().decode("unicode_escape")
        within = real == point or real.startswith(point.rstrip("/") + "/")
        if within and len(point) >= len(found[0]):
            found = point, kind
    return found[1]
