"""Datastore paths, `[datastore] directory/file`: the one place that takes them apart and puts them together."""

from __future__ import annotations

import re
from dataclasses import dataclass

from esxprov.errors import ProvisioningError

_PATH = re.compile(r"\[([^\[\]/\\\x00-\x1f\x7f]+)\] ?([^\x00-\x1f\x7f]*)\Z")


@dataclass(frozen=True, slots=True)
class DatastorePath:
    """A datastore's name and a path in it, without a slash at either end; empty is the datastore itself."""

    datastore: str
    path: str

    @classmethod
    def parse(cls, text: str) -> DatastorePath:
        """Raises ProvisioningError `invalid_event` for what is no path, or climbs out of where it seems to be."""
        found = _PATH.match(text)
        if found is None:
            raise ProvisioningError(
                "invalid_event", f"{text!r} is no datastore path: expected '[datastore] directory/file'"
            )
        path = found[2].removesuffix("/")
        if path and any(part in ("", ".", "..") for part in path.split("/")):
            raise ProvisioningError("invalid_event", f"{text!r} has an empty or a dotted part: write the path in full")
        return cls(found[1], path)

    @property
    def is_root(self) -> bool:
        return not self.path

    @property
    def name(self) -> str:
        """The last part."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> DatastorePath:
        return DatastorePath(self.datastore, self.path.rpartition("/")[0])

    def __str__(self) -> str:
        return f"[{self.datastore}] {self.path}" if self.path else f"[{self.datastore}]"
