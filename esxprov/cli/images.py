"""The golden library: what lies there, whether it is whole, and what nobody needs any more."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from esxprov import tables
from esxprov.cli.setup import EX_FAILED, Failure, Setup, as_json, setup
from esxprov.cli.world import live_tools

if TYPE_CHECKING:
    from esxprov.library.shelf import Shelf, Shelved
    from esxprov.model import Pool
    from esxprov.ports import Tools

_COLUMNS = ("image", "state", "size_mb", "disk_mb", "adapter", "type", "from", "users", "captured", "problem")

_pool = click.option("--pool", "pool_name", metavar="NAME", help="This pool's, by its name or VM host profile.")
_one_pool = click.option(
    "--pool", "pool_name", metavar="NAME", help="The pool, by its name or VM host profile; needed if there are several."
)


@click.group()
def images() -> None:
    """The golden library: what lies there, and who needs it.

    Nothing is deleted but by `esxprov images orphans --delete`.
    """


@images.command("list")
@_pool
@as_json
@setup
def list_(setup: Setup, pool_name: str | None, as_json: bool) -> None:
    """Show every image of the library, and what VCL knows of it.

    State: production, kept (another revision), new (being captured), deleted, unknown (VCL has no such name),
    unfinished (where an event prepares an image). "size mb" is what the disk occupies, "disk mb" what it can hold;
    "users" are VMs that were made of it, or that lie on it.
    """
    with _shelves(setup, pool_name) as shelves:
        rows = [_row(image, shelf) for shelf in shelves for image in shelf.images]
    columns = ["pool", *_COLUMNS] if len({row["pool"] for row in rows}) > 1 else _COLUMNS
    tables.show(rows, columns, as_json=as_json, empty="the library is empty")
    if not as_json:
        _say_blind(shelves)


@images.command()
@click.argument("name", metavar="IMAGE")
@_one_pool
@as_json
@setup
def show(setup: Setup, name: str, pool_name: str | None, as_json: bool) -> None:
    """Show one image, its files, its origin, and who needs it.

    "chain depth" is how many redo disks of the VM lie over the image's disk, "redo mb" what they occupy.
    """
    from esxprov.library.shelf import lineage

    with _one_tools(setup, pool_name) as (tools, pool):
        # All of it, for its ancestors are there, too.
        shelf = _shelf(tools, pool)
    image = _named(shelf, name)
    ancestors = lineage(image, shelf)
    if as_json:
        click.echo(json.dumps(_everything(image, shelf, ancestors), indent=2))
        return
    facts = {name: value for name, value in _row(image, shelf).items() if name not in ("from", "users")}
    revision = image.revision
    click.echo(
        tables.facts(
            {
                **facts,
                "directory": image.directory,
                "title": revision.title if revision else None,
                "made_from": " <- ".join(ancestors) or None,
                "captured_on": image.manifest.computer if image.manifest else None,
                "event": image.manifest.made_for.event if image.manifest else None,
                "reservations": revision.reservations if revision else None,
                "computers": revision.computers if revision else None,
            }
        )
    )
    click.echo()
    tables.show(_files(image), ["file", "bytes"], as_json=False, empty="no files")
    click.echo()
    columns = ["vm", "where", "chain_depth", "redo_mb"]
    tables.show(_users(image), columns, as_json=False, empty="no VM was made of it")
    _say_blind([shelf])


@images.command()
@click.argument("name", metavar="[IMAGE]", required=False)
@_pool
@as_json
@setup
def verify(setup: Setup, name: str | None, pool_name: str | None, as_json: bool) -> None:
    """Say what is wrong with the images, or with one of them.

    A disk must be whole and have all its files, be as its manifest says it was when it was made, and have a revision in
    VCL. Exit code 1 if anything is wrong.
    """
    from esxprov.library.shelf import flaws

    with _shelves(setup, pool_name, name) as shelves:
        found = [
            {"pool": shelf.pool, "image": image.name, "problem": flaw}
            for shelf in shelves
            for image in shelf.images
            if not image.is_hidden
            for flaw in flaws(image)
        ]
    looked_at = sum(not image.is_hidden for shelf in shelves for image in shelf.images)
    if name is not None and not looked_at:
        raise Failure(f"there is no image {name} in {' or '.join(shelf.directory for shelf in shelves)}")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        lines = [f"{one['image']}: {one['problem']}" for one in found]
        click.echo(tables.printable("\n".join(lines or [f"{looked_at} image(s) are as they must be"])))
    if found:
        raise click.exceptions.Exit(EX_FAILED)


@images.command()
@click.option("--delete", is_flag=True, help="Delete them, after asking for the name of each.")
@click.option("--yes", "names", multiple=True, metavar="IMAGE", help="With --delete: this one, without asking.")
@_pool
@as_json
@setup
def orphans(setup: Setup, delete: bool, names: tuple[str, ...], pool_name: str | None, as_json: bool) -> None:
    """Show, or delete, the images that nobody needs.

    They are unknown to VCL or were deleted there, no VM was made of them, no reservation and no computer has them, and
    no event works on them; and what an event that has ended left unfinished, which the service removes by itself. On a
    datastore that several VCL sites share, what is unknown here may be the neighbour's: look before you delete.

    With --delete exit code 1 if one could not be deleted, or was not there.

    \b
    esxprov images orphans --delete
    esxprov images orphans --delete --yes vmwarelinux-base9-v3
    """
    from esxprov.library.shelf import keepers

    if names and not delete:
        raise click.UsageError("--yes is for --delete")
    with _tools_of(setup, pool_name) as (tools, pools):
        shelves = [_shelf(tools, pool) for pool in pools]
        found = [
            (pool, image)
            for pool, shelf in zip(pools, shelves, strict=True)
            for image in shelf.images
            if not keepers(image, shelf.blind)
        ]
        for one in dict.fromkeys(one for shelf in shelves for one in shelf.blind):
            click.echo(tables.printable(f"esxprov: no image is an orphan as long as {one}"), err=True)
        if not delete:
            rows = [{"pool": pool.name, **_short(image)} for pool, image in found]
            columns = ["image", "state", "size_mb", "deleted", "captured"]
            tables.show(rows, columns, as_json=as_json, empty="every image is needed by somebody")
            return
        chosen = [(pool, image) for pool, image in found if image.name in names] if names else found
        missing = sorted(set(names) - {image.name for _, image in chosen})
        done = [_delete(tools, pool, image, ask=not names) for pool, image in chosen]
        done += [_not_an_orphan(tools, pools, name) for name in missing]
    if as_json:
        click.echo(json.dumps(done, indent=2))
    else:
        click.echo(tables.printable("\n".join(map(_told, done)) or "every image is needed by somebody"))
    if not all(one["deleted"] or one["problem"] is None for one in done):
        raise click.exceptions.Exit(EX_FAILED)


def _delete(tools: Tools, pool: Pool, image: Shelved, *, ask: bool) -> dict[str, Any]:
    from esxprov.errors import ProvisioningError
    from esxprov.handlers.library import remove

    if ask:
        what = f"{image.name} ({image.state}, {image.size_mb or 0} MB) in {image.directory.rpartition('/')[0]}"
        click.echo(tables.printable(what), err=True)
        if click.prompt("its name, to delete it", default="", show_default=False, err=True) != image.name:
            return {"image": image.name, "deleted": False, "problem": None}
    try:
        remove(tools, pool, image.name, f"cli-{uuid.uuid4()}")
    except ProvisioningError as error:
        return {"image": image.name, "deleted": False, "problem": error.message}
    return {"image": image.name, "deleted": True, "problem": None}


def _not_an_orphan(tools: Tools, pools: Sequence[Pool], name: str) -> dict[str, Any]:
    from esxprov.library.shelf import keepers

    for pool in pools:
        shelf = _shelf(tools, pool, name)
        image = shelf.named(name)
        if image is not None:
            return {"image": name, "deleted": False, "problem": "; ".join(keepers(image, shelf.blind))}
    return {"image": name, "deleted": False, "problem": "there is no such image"}


def _told(done: dict[str, Any]) -> str:
    if done["deleted"]:
        return f"deleted {done['image']}"
    return f"{done['image']} stays" + (f": {done['problem']}" if done["problem"] else "")


# --- the world -------------------------------------------------------------------------------------------------------


@contextmanager
def _tools_of(setup: Setup, name: str | None) -> Iterator[tuple[Tools, Sequence[Pool]]]:
    """The pool of that name, or all of them."""
    from esxprov.handlers.world import pool_named

    with live_tools(setup) as tools:
        pools = tools.pools.all()
        yield tools, [pool_named(pools, name)] if name is not None or len(pools) < 2 else pools


@contextmanager
def _one_tools(setup: Setup, name: str | None) -> Iterator[tuple[Tools, Pool]]:
    from esxprov.handlers.world import pool_named

    with live_tools(setup) as tools:
        yield tools, pool_named(tools.pools.all(), name)


@contextmanager
def _shelves(setup: Setup, pool_name: str | None, image: str | None = None) -> Iterator[list[Shelf]]:
    with _tools_of(setup, pool_name) as (tools, pools):
        yield [_shelf(tools, pool, image) for pool in pools]


def _shelf(tools: Tools, pool: Pool, image: str | None = None) -> Shelf:
    from esxprov.handlers.library import shelve

    return shelve(tools, pool, image)


def _named(shelf: Shelf, name: str) -> Shelved:
    image = shelf.named(name)
    if image is None:
        raise Failure(f"there is no image {name} in {shelf.directory}: see 'esxprov images list'")
    return image


# --- as rows ---------------------------------------------------------------------------------------------------------


def _row(image: Shelved, shelf: Shelf) -> dict[str, Any]:
    from esxprov.library.shelf import flaws

    disk, manifest = image.disk, image.manifest
    return {
        "pool": shelf.pool,
        "image": image.name,
        "state": image.state.value,
        "size_mb": image.size_mb,
        "disk_mb": disk.capacity_mb if disk else None,
        "adapter": disk.adapter if disk else None,
        "type": f"{disk.create_type}{', thin' if disk.thin else ''}" if disk else None,
        "from": manifest.source.image or None if manifest else None,
        "users": len(image.users),
        "captured": manifest.made_at or None if manifest else None,
        "problem": None if image.is_hidden else "; ".join(flaws(image)) or None,
    }


def _short(image: Shelved) -> dict[str, Any]:
    return {
        "image": image.name,
        "state": image.state.value,
        "size_mb": image.size_mb,
        "deleted": image.revision.deleted_at if image.revision else None,
        "captured": image.manifest.made_at or None if image.manifest else None,
    }


def _everything(image: Shelved, shelf: Shelf, ancestors: list[str]) -> dict[str, Any]:
    from esxprov.plain import to_plain

    return {
        **_row(image, shelf),
        "directory": image.directory,
        "disk": to_plain(image.disk),
        "manifest": to_plain(image.manifest),
        "revision": to_plain(image.revision),
        "work": to_plain(image.work),
        "made_from": ancestors,
        "files": _files(image),
        "users": _users(image),
        "blind": list(shelf.blind),
    }


def _files(image: Shelved) -> list[dict[str, Any]]:
    return [{"file": entry.name, "bytes": entry.size_bytes} for entry in image.files]


def _users(image: Shelved) -> list[dict[str, Any]]:
    return [
        {"vm": user.vm, "where": user.where, "chain_depth": user.chain_depth, "redo_mb": user.redo_mb}
        for user in image.users
    ]


def _say_blind(shelves: Sequence[Shelf]) -> None:
    for one in dict.fromkeys(one for shelf in shelves for one in shelf.blind):
        click.echo(tables.printable(f"esxprov: users may be missing: {one}"), err=True)
