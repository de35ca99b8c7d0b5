"""Whether fresh leases will be seen: what `esxprov leases check` says, as findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from esxprov import lease_bus
from esxprov.config import LeasesConfig
from esxprov.doctor.finding import Finding, Section, Sign
from esxprov.doctor.patient import Patient
from esxprov.leases import check, conf
from esxprov.leases.sources import omapi_of


def sections(patient: Patient) -> list[Section]:
    """One for each kind of source that is configured."""
    config = patient.config.leases
    wanted: list[tuple[str, Callable[[], Iterable[conf.Finding]]]] = []
    if config.files:
        wanted.append(("leases.file", lambda: _files(config)))
    if (path := config.conf) is not None:
        wanted.append(("leases.conf", lambda: check.of_conf(path, ends_old=config.omapi is not None)))
    if (omapi := omapi_of(config)) is not None:
        wanted.append(("leases.omapi", lambda: [check.of_omapi(omapi)]))
    if config.bus:
        wanted.append(("leases.bus", lambda: check.of_bus(lease_bus.who_answers(patient.config))))
    return [_section(name, ask) for name, ask in wanted]


def _section(name: str, ask: Callable[[], Iterable[conf.Finding]]) -> Section:
    return Section((name,), lambda: (_finding(name, one) for one in ask()))


def _files(config: LeasesConfig) -> Iterator[conf.Finding]:
    for file in config.files:
        yield from check.of_file(file.path)


def _finding(name: str, found: conf.Finding) -> Finding:
    sign = Sign.WRONG if found.is_serious else Sign.WARN if found.cure else Sign.OK
    return Finding(name, sign, f"{found.what}: {found.result}", found.cure)
