"""The map of the product: which function answers which call. The names are those of the Perl subs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from esxprov.handlers import capacity, capture, image, load, node_status, power, staging, unload, where
from esxprov.job import Job
from esxprov.ports import Tools


@dataclass(frozen=True, slots=True)
class Handler:
    """`run` returns the reply's result or raises ProvisioningError; `undo` takes back what a failed run left."""

    run: Callable[[Job, Tools], dict[str, Any]]
    undo: Callable[[Job, Tools], None] | None = None


CALLS: Mapping[str, Handler] = {
    "load": Handler(load.load, load.undo),
    "unload": Handler(unload.unload),
    "capture": Handler(capture.capture, capture.undo),
    "retrieve_image": Handler(staging.retrieve_image, staging.undo),
    "post_maintenance_action": Handler(unload.unload),
    "node_status": Handler(node_status.node_status),
    "does_image_exist": Handler(image.does_image_exist),
    "get_image_size": Handler(image.get_image_size),
    "power_status": Handler(power.power_status),
    "power_on": Handler(power.power_on),
    "power_off": Handler(power.power_off),
    "power_reset": Handler(power.power_reset),
    "place": Handler(where.where),
    "capacity": Handler(capacity.capacities),
}
