"""The text of a vmdk descriptor, the small file that names a virtual disk's extents and its parent."""

from __future__ import annotations

import re
from dataclasses import dataclass

from esxprov.model import Extent

_FIRST_LINE = b"# Disk DescriptorFile"
_NO_PARENT = "ffffffff"
_SECTOR_BYTES = 512
_MB = 1024 * 1024
_MOST_BYTES = 2**49
"""512 TB, eight times vSphere's limit: a bigger number is damage, not a disk."""

_SETTING = re.compile(r'\s*([A-Za-z][A-Za-z0-9.]{0,63})\s*=\s*"?([^"\r\n]*)"?\s*\Z')
_EXTENT = re.compile(r'\s*(?:RW|RDONLY|NOACCESS)\s+([0-9]{1,18})\s+[A-Z0-9]+(?:\s+"([^"\r\n]*)"|\s|\Z)')


@dataclass(frozen=True, slots=True)
class Descriptor:
    """`adapter` as the descriptor writes it (`lsilogic`, `ide`, ...); `parent` is None for a disk that stands alone.
    `thin` is whether it calls itself thin.
    """

    adapter: str
    create_type: str
    capacity_mb: int
    extents: tuple[Extent, ...]
    parent: str | None
    thin: bool = False


def parse(content: bytes) -> Descriptor | None:
    """The descriptor in the beginning of a .vmdk file; None if there is none that makes sense.

    A Workstation disk (monolithicSparse) has it a sector into the file, behind a binary header and before binary data,
    so it is searched for, and it ends at the first NUL.
    """
    start = content.find(_FIRST_LINE)
    if start < 0:
        return None
    settings: dict[str, str] = {}
    extents: list[Extent] = []
    for line in content[start:].split(b"\0", 1)[0].decode("utf-8", "replace").split("\n"):
        extent = _EXTENT.match(line)
        if extent:
            extents.append(Extent(extent[2] or "", int(extent[1]) * _SECTOR_BYTES))
            continue
        setting = _SETTING.match(line)
        if setting:
            settings.setdefault(setting[1].lower(), setting[2].strip())
    size_bytes = sum(extent.size_bytes for extent in extents)
    if "createtype" not in settings or not extents or size_bytes > _MOST_BYTES:
        return None
    is_child = settings.get("parentcid", _NO_PARENT).lower() != _NO_PARENT
    return Descriptor(
        adapter=settings.get("ddb.adaptertype", "lsilogic").lower(),
        create_type=settings["createtype"],
        capacity_mb=-(-size_bytes // _MB),
        extents=tuple(extents),
        parent=settings.get("parentfilenamehint", "(unnamed)") if is_child else None,
        thin=settings.get("ddb.thinprovisioned") == "1",
    )
