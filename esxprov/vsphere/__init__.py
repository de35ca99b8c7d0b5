"""ESXi hosts and vCenters through pyVmomi: the adapter behind ports.Hypervisors, and the only place that imports it."""

from __future__ import annotations

from esxprov.vsphere.endpoint import Endpoint, VSphere
from esxprov.vsphere.watch import Watches

__all__ = ["Endpoint", "VSphere", "Watches"]
