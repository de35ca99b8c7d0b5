"""Settings as text, from an INI file, the environment and the command line, and errors that name where a wrong one
stands. What settings there are, and what they mean, is config.py's.
"""

from __future__ import annotations

import configparser
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esxprov.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Schema:
    """Which sections there are, with their keys. Of those in `named` there may be several: `[endpoint esx1]`."""

    keys: Mapping[str, frozenset[str]]
    named: tuple[str, ...] = ()


class Settings:
    """Settings by section and key, with errors that name file, section and key."""

    def __init__(self, path: Path, values: Mapping[str, Mapping[str, str]]) -> None:
        self.path = path
        self.values = values

    @classmethod
    def read(cls, path: Path, schema: Schema, environment: Mapping[str, str], overrides: Iterable[str]) -> Settings:
        """The file, over it `ESXPROV_<SECTION>_<KEY>` of the environment, over that `section.key=value`.

        ConfigurationError if there is no such file, or something in it that the schema does not know.
        """
        values = _read_file(path)
        _apply_environment(values, schema, environment)
        _apply_overrides(values, overrides)
        _refuse_unknown(path, values, schema)
        return cls(path, values)

    def named(self, kind: str) -> list[tuple[str, str]]:
        return [(section, section.partition(" ")[2]) for section in self.values if section.startswith(kind + " ")]

    def text(self, section: str, key: str, default: str | None = None) -> str:
        value = self.values.get(section, {}).get(key, default)
        if value is None or value == "":
            raise self.wrong(section, key, "is missing")
        return value

    def optional(self, section: str, key: str) -> str | None:
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
            return path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise self.wrong(section, key, f"names {path}, which cannot be read: {error}") from error

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


def _read_file(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), inline_comment_prefixes=("#",))
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}): write it, or name another file in ESXPROV_CONF"
        ) from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not an INI file: {str(error).splitlines()[0]}") from error
    return {_squeeze(section): dict(parser[section]) for section in parser.sections()}


def _squeeze(section: str) -> str:
    return " ".join(section.split())


def _apply_environment(values: dict[str, dict[str, str]], schema: Schema, environment: Mapping[str, str]) -> None:
    names = {_variable(section): section for section in [*schema.keys, *values] if section not in schema.named}
    for variable, value in environment.items():
        for prefix, section in names.items():
            key = variable.removeprefix(prefix + "_").lower()
            if variable.startswith(prefix + "_") and key in schema.keys[section.split(" ", 1)[0]]:
                values.setdefault(section, {})[key] = value


def _variable(section: str) -> str:
    return "ESXPROV_" + re.sub(r"[^A-Za-z0-9]", "_", section).upper()


def _apply_overrides(values: dict[str, dict[str, str]], overrides: Iterable[str]) -> None:
    for override in overrides:
        name, equals, value = override.partition("=")
        section, dot, key = name.rpartition(".")
        if not equals or not dot:
            raise ConfigurationError(
                f"--set {override!r} is not of the form section.key=value, like service.workers_slow=4"
            )
        values.setdefault(_squeeze(section), {})[key.strip()] = value
