"""What a load costs by the size of its image, with a disk of its own and linked to the image's: time and bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, percentile
from benchmarks.stage import Slot, Stage, succeeded
from bridge.client import Client
from tests.testbed.vsphere import golden_disk

NAME = "disks"
BOUND = 1.5
"""A linked load of the largest image against one of the smallest."""
MOST_WRITTEN_MB = 1.0
"""By a linked load, whatever the image's size."""

_SIZES_GB = (1, 5, 10, 20, 40)
_DATA_MB_PER_GB = 16
_COPY_MB_S = 200.0
_LINKED_ROUNDS = 15
_COPIED_ROUNDS = 2
_MB = 1024 * 1024


@dataclass(slots=True)
class Loads:
    """What was measured of loads of one kind."""

    milliseconds: list[float] = field(default_factory=list)
    written_mb: list[float] = field(default_factory=list)


def run(stage: Stage) -> list[Figure]:
    """A figure for each size, linked against copied, and one for linked loads of the largest against the smallest."""
    with _images(stage) as images, stage.service(ESXPROV_POOL_MAIN_DISK="linked"), stage.client() as client:
        measured = {(gigabytes, server): Loads() for gigabytes in images for server in (False, True)}
        _load(stage, client, images[_SIZES_GB[0]], _SIZES_GB[0], Loads(), server=False)  # warms up
        # The copies last: what they wrote goes to the real disk for a while after them.
        for server, rounds in ((False, _LINKED_ROUNDS), (True, _COPIED_ROUNDS)):
            for _ in range(rounds):
                for gigabytes, image in images.items():
                    _load(stage, client, image, gigabytes, measured[gigabytes, server], server=server)
    largest, smallest = measured[_SIZES_GB[-1], False], measured[_SIZES_GB[0], False]
    most_mb = max(max(loads.written_mb) for (_, server), loads in measured.items() if not server)
    if most_mb > MOST_WRITTEN_MB:
        raise RuntimeError(f"a linked load wrote {most_mb:.2f} MB, more than {MOST_WRITTEN_MB:g}")
    return [
        *(_size(gigabytes, measured[gigabytes, False], measured[gigabytes, True]) for gigabytes in _SIZES_GB),
        Figure.ratio(
            NAME,
            f"linked, {_SIZES_GB[-1]} GB",
            largest.milliseconds,
            smallest.milliseconds,
            BOUND,
            f"a linked load of an image of {_SIZES_GB[-1]} GB; against: one of {_SIZES_GB[0]} GB. Neither wrote more "
            f"than {most_mb:.2f} MB, which is bounded, too ({MOST_WRITTEN_MB:g} MB)",
        ),
    ]


def _size(gigabytes: int, linked: Loads, copied: Loads) -> Figure:
    written = percentile(linked.written_mb, 50), percentile(copied.written_mb, 50)
    return Figure.ratio(
        NAME,
        f"{gigabytes} GB, linked",
        linked.milliseconds,
        copied.milliseconds,
        None,
        f"a load of an image of {gigabytes} GB with {gigabytes * _DATA_MB_PER_GB} MB in it, by the real service in a "
        f"pool with disk = linked; against: the same for a server request, which gets a copy, at {_COPY_MB_S:g} MB/s. "
        f"Written to the VM's directory: {written[0]:.2f} MB linked, {written[1]:.0f} MB copied",
        written_mb=written[0],
        written_mb_of_the_floor=written[1],
    )


def _load(stage: Stage, client: Client, image: str, gigabytes: int, loads: Loads, *, server: bool) -> None:
    slot = stage.slots[0]
    asked: dict[str, dict[str, Any]] = {
        "image": {"name": image, "size_mb": gigabytes * 1024},
        "reservation": {"server": server},
    }
    request = stage.request("load", slot, **asked)
    began = time.perf_counter()
    succeeded(client.call(request, timeout_s=120))
    loads.milliseconds.append(1000 * (time.perf_counter() - began))
    loads.written_mb.append(_occupied_mb(stage, slot))
    succeeded(client.call(stage.request("unload", slot, **asked)))


def _occupied_mb(stage: Stage, slot: Slot) -> float:
    return sum(path.stat().st_blocks * 512 for path in (stage.bed.store / "inuse" / slot.name).iterdir()) / _MB


@contextmanager
def _images(stage: Stage) -> Iterator[dict[int, str]]:
    """Sparse images by their size in GB, and copies at an equal pace."""
    images = {gigabytes: f"vmwarelinux-disks{gigabytes}-v1" for gigabytes in _SIZES_GB}
    data = os.urandom(_DATA_MB_PER_GB * _MB)
    for gigabytes, name in images.items():
        _fill(golden_disk(stage.bed.store / "golden", name, gigabytes * 1024), gigabytes, data)
    for endpoint in stage.bed.endpoints.values():
        endpoint.set_pace(_COPY_MB_S)
    try:
        yield images
    finally:
        for endpoint in stage.bed.endpoints.values():
            endpoint.set_pace(0)


def _fill(descriptor: Path, gigabytes: int, data: bytes) -> None:
    with descriptor.with_name(f"{descriptor.stem}-flat.vmdk").open("r+b") as content:
        for number in range(gigabytes):
            content.seek(number * 1024 * _MB)
            content.write(data)
