"""All checks of a configuration, in the order they are printed."""

from __future__ import annotations

from functools import partial

from esxprov.config import Config
from esxprov.database import Database
from esxprov.doctor import broker, database, endpoints, leases, spool
from esxprov.doctor.finding import Finding, Section, examine
from esxprov.doctor.patient import Patient


def checkup(config: Config) -> list[Finding]:
    """Looks at everything, and changes nothing that it does not put back."""
    patient = Patient(config, Database(config.database))
    try:
        return examine(
            [
                *broker.sections(patient),
                Section(database.CHECKS, partial(database.look, patient)),
                *endpoints.sections(patient),
                *leases.sections(patient),
                Section(spool.CHECKS, partial(spool.look, patient)),
            ]
        )
    finally:
        patient.database.close()
