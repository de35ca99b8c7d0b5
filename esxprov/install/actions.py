"""What an installation does to files, one action at a time; each can say whether it is done, be repeated and undone.

Every file appears whole or not at all (written beside its place, then renamed): vcld compiles the shim for every step
of every reservation, and half of it would break them.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from esxprov.errors import ConfigurationError


class Action(Protocol):
    """One thing to be done.

    Every method raises ConfigurationError, with what to do about it, if something that is not ours is in the way.
    """

    @property
    def what(self) -> str:
        """What there will be, for people."""

    def is_done(self) -> bool:
        """Whether `do` would change nothing."""

    def do(self) -> None:
        """May be repeated, also after it was killed half way."""

    def is_ours(self) -> bool:
        """Whether there is something that `undo` takes away."""

    def undo(self) -> None:
        """Take away what is ours, and nothing else."""


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory. One that is there keeps its mode, and is taken away only when it is empty."""

    path: Path
    mode: int

    @property
    def what(self) -> str:
        return f"directory {self.path}, mode {self.mode:o}"

    def is_done(self) -> bool:
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise _in_the_way(self.path, "a directory")
        return self.path.is_dir()

    def do(self) -> None:
        _make_parents(self.path)
        self.path.mkdir(exist_ok=True)
        self.path.chmod(self.mode)

    def is_ours(self) -> bool:
        return self.path.is_dir() and not self.path.is_symlink() and not any(self.path.iterdir())

    def undo(self) -> None:
        self.path.rmdir()


@dataclass(frozen=True, slots=True)
class Text:
    """A file that we write again when it is not as it should be.

    `mark` stands in every version of it, so that a stranger's file of this name is neither overwritten nor deleted.
    """

    path: Path
    text: str
    mark: str

    @property
    def what(self) -> str:
        return f"file {self.path}"

    def is_done(self) -> bool:
        if self.path.is_symlink() or (self.path.exists() and not self.is_ours()):
            raise _in_the_way(self.path, "a file of esxprov")
        return self.path.exists() and self.path.read_bytes() == self.text.encode()

    def do(self) -> None:
        _write(self.path, self.text, 0o644)

    def is_ours(self) -> bool:
        if self.path.is_symlink() or not self.path.is_file():
            return False
        return self.mark in self.path.read_text(encoding="utf-8", errors="replace")

    def undo(self) -> None:
        self.path.unlink()


@dataclass(frozen=True, slots=True)
class Copies:
    """Files that belong together in a `folder` of their own and beside it; what uses the others is the last."""

    folder: Path
    files: tuple[Text, ...]

    @property
    def what(self) -> str:
        return f"copies of {len(self.files)} files, the last of them {self.files[-1].path}"

    def is_done(self) -> bool:
        Directory(self.folder, 0o755).is_done()
        done = [file.is_done() for file in self.files]  # of all: any may be in the way
        return all(done)

    def do(self) -> None:
        Directory(self.folder, 0o755).do()
        for file in self.files:
            if not file.is_done():
                file.do()

    def is_ours(self) -> bool:
        # Behind a link are the package's own files.
        return not self.folder.is_symlink() and any(file.is_ours() for file in self.files)

    def undo(self) -> None:
        of_older_versions = [Text(path, "", self.files[-1].mark) for path in self.folder.glob("*.pm")]
        for file in (*reversed(self.files), *of_older_versions):
            if file.is_ours():
                file.undo()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link into the package. One that leads into another place of the same name is an older one of ours."""

    path: Path
    target: Path

    @property
    def what(self) -> str:
        return f"link {self.path} to {self.target}"

    def is_done(self) -> bool:
        if os.path.lexists(self.path) and not self.is_ours():
            raise _in_the_way(self.path, "a link into esxprov's package")
        return self.path.is_symlink() and self.path.readlink() == self.target

    def do(self) -> None:
        _make_parents(self.path)
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        beside.symlink_to(self.target)
        try:
            beside.replace(self.path)
        except BaseException:
            beside.unlink()
            raise

    def is_ours(self) -> bool:
        return self.path.is_symlink() and self.path.readlink().parts[-6:] == self.target.parts[-6:]

    def undo(self) -> None:
        self.path.unlink()


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that people change or that others know: written once, never again, and not taken away."""

    path: Path
    text: str
    mode: int

    @property
    def what(self) -> str:
        return f"file {self.path}, mode {self.mode:o}, yours from then on"

    def is_done(self) -> bool:
        if os.path.lexists(self.path) and not self.path.is_file():
            raise _in_the_way(self.path, "a file")
        return self.path.exists()

    def do(self) -> None:
        _write(self.path, self.text, self.mode)

    def is_ours(self) -> bool:
        return False

    def undo(self) -> None:
        """It is the site's."""


def password(path: Path) -> Kept:
    """A file with a new password. No line end: rabbitmqctl reads it, too."""
    return Kept(path, secrets.token_urlsafe(24), 0o640)


def _write(path: Path, text: str, mode: int) -> None:
    _make_parents(path)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    beside = Path(name)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(mode)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _make_parents(path: Path) -> None:
    """Readable for all, whatever root's umask is: they are the system's, like /usr/local/share/man."""
    for parent in reversed(path.parents):
        if not parent.is_dir():
            parent.mkdir()
            parent.chmod(0o755)


def _in_the_way(path: Path, expected: str) -> ConfigurationError:
    is_what = f"a link to {path.readlink()}" if path.is_symlink() else "something else"
    return ConfigurationError(f"{path} is {is_what}, expected {expected} or nothing: move it away")
