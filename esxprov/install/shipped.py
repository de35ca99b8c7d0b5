"""What the package brings along: texts in its share directory, and the Perl shim."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

PROVISIONERS = Path("VCL", "Module", "Provisioning")
"""Where vcld looks for provisioning modules, below a directory of its @INC."""


def text(name: str) -> str:
    """A file of the package's share directory."""
    return resources.files("esxprov").joinpath("share", name).read_text(encoding="utf-8")


def unit(name: str) -> str:
    """A systemd unit that runs this very program."""
    return text(name).replace("@esxprov@", str(Path(sys.argv[0]).resolve()))


def shim() -> Path:
    """The directory for vcld's PERL5LIB."""
    return Path(str(resources.files("bridge").joinpath("perl", "lib")))


def modules() -> list[Path]:
    """The shim's files relative to `shim()`, what uses the others last."""
    found = [path.relative_to(shim()) for path in (shim() / PROVISIONERS).rglob("*.pm")]
    return sorted(found, key=lambda path: (-len(path.parts), path))
