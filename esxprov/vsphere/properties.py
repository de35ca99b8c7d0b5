"""Reading properties of many objects in one round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esxprov.vsphere.api import vim, vmodl
from esxprov.vsphere.session import Session

_Collector = vmodl.query.PropertyCollector


def moid(ref: Any) -> str:
    """The id of a managed object."""
    return str(ref._GetMoId())


@dataclass(frozen=True, slots=True)
class Found:
    """An object and those of the wanted properties that it has set."""

    ref: Any
    properties: dict[str, Any]

    @property
    def moid(self) -> str:
        return moid(self.ref)

    def get(self, path: str, default: Any = None) -> Any:
        value = self.properties.get(path)
        return default if value is None else value


def traverse(kind: Any, path: str, *then: Any, name: str | None = None) -> Any:
    """Follow the property `path` of `kind`, and `then` further: traversals, or names of traversals."""
    selection = [_Collector.SelectionSpec(name=step) if isinstance(step, str) else step for step in then]
    return _Collector.TraversalSpec(name=name, type=kind, path=path, skip=False, selectSet=selection)


def spec(wanted: Mapping[Any, Sequence[str]], start: Sequence[Any], *traversals: Any) -> Any:
    """A FilterSpec: from the objects `start` along `traversals`, of each kind the `wanted` properties."""
    return _Collector.FilterSpec(
        objectSet=[_Collector.ObjectSpec(obj=ref, skip=False, selectSet=list(traversals)) for ref in start],
        propSet=[_Collector.PropertySpec(type=kind, pathSet=list(paths), all=False) for kind, paths in wanted.items()],
    )


def retrieve(session: Session, filter_spec: Any) -> list[Found]:
    """All objects of a filter, which must start at one that exists and has a wanted property.

    vCenter answers in pages, so the token is followed to its end.
    """
    return session.call(lambda: _retrieve(session, filter_spec), repeatable=True)


def _retrieve(session: Session, filter_spec: Any) -> list[Found]:
    collector = session.content.propertyCollector
    found: list[Found] = []
    page = collector.RetrievePropertiesEx([filter_spec], _Collector.RetrieveOptions())
    if page is None or not page.objects:
        raise vim.fault.NotAuthenticated()  # how ESXi answers an expired session: no fault, and nothing in it
    while page is not None:
        for each in page.objects:
            for missing in each.missingSet or ():
                if isinstance(missing.fault, vim.fault.NotAuthenticated):
                    raise missing.fault  # how vCenter answers one: objects, but without their properties
            found.append(Found(each.obj, {p.name: p.val for p in each.propSet}))
        page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None
    return found


def read(session: Session, ref: Any, *paths: str) -> Found:
    """Properties of one object. Raises ManagedObjectNotFound."""
    return retrieve(session, spec({type(ref): paths}, [ref]))[0]
