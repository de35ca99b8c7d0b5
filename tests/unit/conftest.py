"""Hypothesis for a busy machine: no time limit an example, and no complaint about its slow first draw."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("unit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")
