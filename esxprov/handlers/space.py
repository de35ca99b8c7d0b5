"""Room on a datastore for a copy: asked for before it begins, and again when there was none in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from esxprov.errors import ProvisioningError
from esxprov.model import ClaimState, DiskInfo, ImageWork
from esxprov.ports import Hypervisor, Tools


def needed_mb(hypervisor: Hypervisor, layers: Sequence[DiskInfo]) -> int:
    """What a copy of a chain (the base last) may occupy: what its layers occupy together, and never more than the disk
    can hold. A thick base has a copy as large as itself where the type cannot be chosen.
    """
    capacity_mb = layers[0].capacity_mb
    if not layers[-1].thin:
        return capacity_mb
    occupied = 0
    for layer in layers:
        allocated_mb = hypervisor.allocated_mb(layer.path)
        occupied += capacity_mb if allocated_mb is None else allocated_mb
    return min(capacity_mb, occupied)


def require(tools: Tools, hypervisor: Hypervisor, work: ImageWork) -> None:
    """Raises `datastore_full` unless the datastore has room for `work` beside all that is promised there."""
    free_mb = hypervisor.datastore(work.datastore).free_mb
    promised_mb = _on_their_way(tools, hypervisor, work)
    if work.needed_mb > free_mb - promised_mb:
        raise _full(work.image, work.datastore, work.needed_mb, free_mb, promised_mb)


@contextmanager
def told(hypervisor: Hypervisor, datastore: str, unfinished: str, needed_mb: int, what: str) -> Iterator[None]:
    """Copying `what` to `unfinished`: if the datastore turns out to be full, that goes, and the error says how much
    room is missing once it is gone.
    """
    try:
        yield
    except ProvisioningError as error:
        if error.code != "datastore_full":
            raise
        free_mb = None
        with suppress(ProvisioningError):
            hypervisor.delete(unfinished)
            free_mb = hypervisor.datastore(datastore).free_mb
        if free_mb is None:
            raise
        if free_mb < needed_mb:
            raise _full(what, datastore, needed_mb, free_mb) from error
        raise ProvisioningError(
            "datastore_full",
            f"{what} needs up to {needed_mb} MB on [{datastore}], which was full in the middle of the copy, and now "
            f"has {free_mb} MB free: see what else writes to it, and try again",
            detail={"datastore": datastore, "needed_mb": needed_mb, "free_mb": free_mb, "missing_mb": 0},
        ) from error


def _on_their_way(tools: Tools, hypervisor: Hypervisor, work: ImageWork) -> int:
    """What is promised of the datastore's free space: to copies for new VMs, and to images that were begun earlier. Who
    comes later counts this one: if both counted each other, both would be refused where one has room.
    """
    total_mb = sum(
        claim.disk_mb
        for claim in tools.claims.all()
        if claim.state is ClaimState.CLAIMED and claim.datastore == work.datastore
    )
    for other in tools.images.of_datastore(work.datastore):
        if other.event_id == work.event_id:
            break
        written_mb = hypervisor.allocated_mb(f"{other.path}/{other.image}.vmdk") or 0
        total_mb += max(0, other.needed_mb - written_mb)
    return total_mb


def _full(what: str, datastore: str, needed_mb: int, free_mb: int, promised_mb: int = 0) -> ProvisioningError:
    missing_mb = max(1, needed_mb - max(0, free_mb - promised_mb))
    promised = f" ({promised_mb} of them promised to others)" if promised_mb else ""
    return ProvisioningError(
        "datastore_full",
        f"{what} needs up to {needed_mb} MB on [{datastore}], where {free_mb} MB are free{promised}: "
        f"{missing_mb} MB are missing, make room: 'esxprov images orphans' shows what nobody needs",
        detail={
            "datastore": datastore,
            "needed_mb": needed_mb,
            "free_mb": free_mb,
            "promised_mb": promised_mb,
            "missing_mb": missing_mb,
        },
    )
