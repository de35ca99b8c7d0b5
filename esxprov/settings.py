"""Settings as text, from an INI file, the environment and the command line, and errors that name where a wrong one
stands. What settings there are, and what they mean, is config.py's.
"""

from __future__ import annotations

import configparser
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esxprov.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Schema:
    """Which sections there are, with their keys. Of those in `named` there may be several: `[endpoint esx1]`."""

    keys: Mapping[str, frozenset[str]]
    named: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Value:
    """A setting as it is in effect, fit for a screen: of a secret there is the file that holds it, and `***`.

    `text` is None if there is none. `origin` says who gave it: `FILE:LINE`, a variable, `--set`, `default`.
    """

    section: str
    key: str
    text: str | None
    origin: str

    @property
    def name(self) -> str:
        """As `--set` takes it."""
        return f"{self.section}.{self.key}"


Origins = dict[tuple[str, str], str]
"""Who gave each setting, by section and key."""

_DEFAULT = "default"
_MASK = "***"


class Settings:
    """Settings by section and key, with errors that name file, section and key.

    Whatever is read is remembered with where it came from: see `effective`.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        values: dict[str, dict[str, str]],
        origins: Origins,
    ) -> None:
        self.path = path
        self.values: Mapping[str, Mapping[str, str]] = values
        self._schema = schema
        self._given = values
        self._origins = origins
        self._seen: dict[tuple[str, str], Value] = {}

    @classmethod
    def read(cls, path: Path, schema: Schema, environment: Mapping[str, str], overrides: Iterable[str]) -> Settings:
        """The file, over it `ESXPROV_<SECTION>_<KEY>` of the environment, over that `section.key=value`.

        ConfigurationError if there is no such file, or something in it that the schema does not know.
        """
        values, origins = _read_file(path)
        _apply_environment(values, origins, schema, environment)
        _apply_overrides(values, origins, overrides)
        _refuse_unknown(path, values, schema)
        return cls(path, schema, values, origins)

    def fill(self, section: str, values: Mapping[str, str], origin: str) -> None:
        """Take these where the section says nothing, as if it had said them."""
        for key, value in values.items():
            if key not in self._given.get(section, {}):
                self._given.setdefault(section, {})[key] = value
                self._origins[section, key] = origin

    def borrow(self, section: str, owner: str) -> None:
        """Note that another section's settings are in effect for this one."""
        for key in self._schema.keys[section] & self._schema.keys[owner]:
            text = self._note(owner, key).text
            self._seen[section, key] = Value(section, key, text, f"[{owner}] {key}")

    def effective(self) -> tuple[Value, ...]:
        """All that the program has read, and what else is set, section by section."""
        for section, keys in self._given.items():
            for key in keys:
                self._note(section, key)
        kinds = list(self._schema.keys)
        sections = dict.fromkeys([*self._given, *(section for section, _ in self._seen)])
        place = {name: number for number, name in enumerate(sections)}

        def order(value: Value) -> tuple[int, int, str]:
            return kinds.index(value.section.partition(" ")[0]), place[value.section], value.key

        return tuple(sorted(self._seen.values(), key=order))

    def _note(self, section: str, key: str, default: object = None) -> Value:
        """Remember a setting that is being read; what has been noted already stays."""
        if (section, key) not in self._seen:
            given = self._given.get(section, {}).get(key)
            origin = _DEFAULT if given is None else self._origins[section, key]
            text = default if given is None else given
            self._seen[section, key] = Value(section, key, None if text is None else hidden(str(text)), origin)
        return self._seen[section, key]

    def named(self, kind: str) -> list[tuple[str, str]]:
        return [(section, section.partition(" ")[2]) for section in self.values if section.startswith(kind + " ")]

    def text(self, section: str, key: str, default: str | None = None) -> str:
        self._note(section, key, default)
        value = self.values.get(section, {}).get(key, default)
        if value is None or value == "":
            raise self.wrong(section, key, "is missing")
        return value

    def optional(self, section: str, key: str) -> str | None:
        self._note(section, key)
        return self.values.get(section, {}).get(key) or None

    def path_of(self, section: str, key: str) -> Path | None:
        value = self.optional(section, key)
        if value is None:
            return None
        if not Path(value).is_file():
            raise self.wrong(section, key, f"names {value}, which is not a file")
        return Path(value)

    def number(
        self, section: str, key: str, default: float, kind: Callable[[str], Any], least: float, most: float
    ) -> Any:
        self._note(section, key, default)
        value = self.values.get(section, {}).get(key)
        if value is None:
            return default
        try:
            number = kind(value)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            wanted = "a whole number" if kind is int else "a number"
            raise self.wrong(section, key, f"is {value!r}, expected {wanted} from {least:g} to {most:g}")
        return number

    def choice(self, section: str, key: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(section, key, default)
        if value not in choices:
            raise self.wrong(section, key, f"is {value!r}, expected {' or '.join(choices)}")
        return value

    def secret(self, section: str, key: str = "password_file") -> str:
        path = self.path_of(section, key)
        if path is None:
            raise self.wrong(section, key, "is missing")
        try:
            if path.stat().st_mode & 0o007:
                raise self.wrong(section, key, f"names {path}, which everybody may read: chmod 640 it")
            found = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise self.wrong(section, key, f"names {path}, which cannot be read: {error}") from error
        text = f"{path} ({_MASK if found else 'empty'})"
        self._seen[section, key] = Value(section, key, text, self._origins[section, key])
        return found

    def hand_in(self, section: str, key: str, origin: str) -> None:
        """Note that the secret, for which the section names no file, was found elsewhere."""
        self._seen[section, key] = Value(section, key, _MASK, origin)

    def wrong(self, section: str, key: str, what: str) -> ConfigurationError:
        return ConfigurationError(f"{self.path}: [{section}] {key} {what}")


def _refuse_unknown(path: Path, values: Mapping[str, Mapping[str, str]], schema: Schema) -> None:
    for section, keys in values.items():
        kind, _, name = section.partition(" ")
        if kind not in schema.keys or (kind in schema.named) != bool(name):
            shown = [f"{known} NAME" if known in schema.named else known for known in schema.keys]
            raise ConfigurationError(f"{path}: there is no section [{section}]{_nearest(section, shown)}")
        for key in keys:
            if key not in schema.keys[kind]:
                raise ConfigurationError(
                    f"{path}: [{section}] has no key {key!r}{_nearest(key, sorted(schema.keys[kind]))}"
                )


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known)}"


def hidden(url: str) -> str:
    """A URL fit for a screen: without the password somebody may have left in it."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", rf"\1:{_MASK}@", url)


def _read_file(path: Path) -> tuple[dict[str, dict[str, str]], Origins]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), inline_comment_prefixes=("#",))
    origins: Origins = {}
    at = ["", 0]  # section and number of the line that the parser is at

    def watched(lines: Iterable[str]) -> Iterator[str]:
        for at[1], line in enumerate(lines, start=1):
            header = parser.SECTCRE.match(line)
            if header:
                at[0] = header["header"]
            yield line

    def option(name: str) -> str:
        """Called by the parser at each key, the only moment at which it tells the line."""
        origins.setdefault((_squeeze(str(at[0])), name.lower()), f"{path}:{at[1]}")
        return name.lower()

    parser.optionxform = option  # type: ignore[assignment,method-assign]  # configparser's own way
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(watched(file))
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}): write it, or name another file in ESXPROV_CONF"
        ) from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not an INI file: {str(error).splitlines()[0]}") from error
    parser.optionxform = str.lower  # type: ignore[assignment,method-assign]  # it is called at each look-up, too
    values = {_squeeze(section): dict(parser[section]) for section in parser.sections()}
    # What stands in [DEFAULT] is in every section, and was read in none of them.
    common = {key: origin for (section, key), origin in origins.items() if section == parser.default_section}
    given = {(section, key) for section, keys in values.items() for key in keys}
    return values, {one: origins.get(one) or common[one[1]] for one in given}


def _squeeze(section: str) -> str:
    return " ".join(section.split())


def _apply_environment(
    values: dict[str, dict[str, str]], origins: Origins, schema: Schema, environment: Mapping[str, str]
) -> None:
    names = {_variable(section): section for section in [*schema.keys, *values] if section not in schema.named}
    for variable, value in environment.items():
        for prefix, section in names.items():
            key = variable.removeprefix(prefix + "_").lower()
            if variable.startswith(prefix + "_") and key in schema.keys[section.split(" ", 1)[0]]:
                values.setdefault(section, {})[key] = value
                origins[section, key] = variable


def _variable(section: str) -> str:
    return "ESXPROV_" + re.sub(r"[^A-Za-z0-9]", "_", section).upper()


def _apply_overrides(values: dict[str, dict[str, str]], origins: Origins, overrides: Iterable[str]) -> None:
    for override in overrides:
        name, equals, value = override.partition("=")
        section, dot, key = name.rpartition(".")
        if not equals or not dot:
            raise ConfigurationError(
                f"--set {override!r} is not of the form section.key=value, like service.workers_slow=4"
            )
        section, key = _squeeze(section), key.strip()
        values.setdefault(section, {})[key] = value
        origins[section, key] = "--set"
