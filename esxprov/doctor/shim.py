"""The Perl shim in vcld: is it where vcld looks for it, and is it the one of this program."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from esxprov.doctor.finding import Finding, Sign, ok, wrong
from esxprov.doctor.patient import Patient

CHECKS = ("shim.place", "shim.version")

ENVIRONMENT = Path("/etc/sysconfig/vcld")
"""What vcld's unit reads its environment from, on every distribution."""

_FOLDER = Path("VCL", "Module", "Provisioning")
_MODULE = _FOLDER / "esxprov.pm"


def look(patient: Patient) -> Iterator[Finding]:
    """vcld puts its own library before what PERL5LIB names."""
    ours = Path(str(resources.files("bridge").joinpath("perl", "lib")))
    library = patient.vcl / "lib"
    if not library.is_dir():
        text = f"there is no VCL in {patient.vcl}: run this on a management node, or name its place with --vcl"
        yield from (Finding(check, Sign.SKIPPED, text) for check in CHECKS)
        return
    places = [library, *_named(ENVIRONMENT)]
    place = next((each for each in places if (each / _MODULE).is_file()), None)
    if place is None:
        looked = ", ".join(map(str, places))
        yield wrong("shim.place", f"vcld does not find {_MODULE}: it looks in {looked}", _copy(ours, library))
        return
    yield ok("shim.place", f"vcld finds it in {place}")
    other = [str(path) for path in _files(ours) if not _is_same(ours / path, place / path)]
    if other:
        text = f"{', '.join(other)} in {place} is not what this program brings along"
        yield wrong("shim.version", text, _copy(ours, place))
    else:
        yield ok("shim.version", "it is the one of this program")


def perl5lib(environment: str) -> list[Path]:
    """The directories that PERL5LIB names in an EnvironmentFile of systemd; the last line that sets it counts."""
    value = ""
    for line in environment.splitlines():
        name, equals, words = line.strip().partition("=")
        if equals and name == "PERL5LIB":
            value = words.strip().strip("\"'")
    return [Path(part) for part in value.split(":") if part]


def _named(environment: Path) -> list[Path]:
    try:
        return perl5lib(environment.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []


def _files(library: Path) -> list[Path]:
    return sorted(path.relative_to(library) for path in (library / _FOLDER).rglob("*.pm"))


def _is_same(ours: Path, theirs: Path) -> bool:
    return theirs.is_file() and theirs.read_bytes() == ours.read_bytes()


def _copy(ours: Path, place: Path) -> str:
    """Each state process of vcld compiles it anew, and would find half of it."""
    return f"cp -r {shlex.quote(str(ours / 'VCL'))} {shlex.quote(str(place))}/   # while vcld is stopped"
