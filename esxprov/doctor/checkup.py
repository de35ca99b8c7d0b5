"""All checks of a configuration, in the order they are printed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from esxprov.config import Config
from esxprov.database import Database
from esxprov.doctor import broker, database, endpoints, leases, shim, spool
from esxprov.doctor.finding import Finding, Section, examine
from esxprov.doctor.patient import Patient


def checkup(config: Config, vcl: Path) -> list[Finding]:
    """Looks at everything, and changes nothing that it does not put back. `vcl` is where VCL is on this machine."""
    patient = Patient(config, Database(config.database), vcl)
    try:
        return examine(
            [
                *broker.sections(patient),
                Section(database.CHECKS, partial(database.look, patient)),
                Section(shim.CHECKS, partial(shim.look, patient)),
                *endpoints.sections(patient),
                *leases.sections(patient),
                Section(spool.CHECKS, partial(spool.look, patient)),
            ]
        )
    finally:
        patient.database.close()
