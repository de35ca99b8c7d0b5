"""What an event asks for, as typed values: the one place that reads `event.data`, and that lets no bad name near a
path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeVar

from bridge.envelope import Event
from esxprov.errors import ProvisioningError
from esxprov.model import Computer, Image, Profile, Reservation

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,74}\Z")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")


@dataclass(frozen=True, slots=True)
class Request:
    """The parts of a request that its call needs; asking for an absent one raises `invalid_event`."""

    call: str
    _reservation: Reservation | None = None
    _computer: Computer | None = None
    _image: Image | None = None
    _profile: Profile | None = None

    @property
    def reservation(self) -> Reservation:
        return self._have("reservation", self._reservation)

    @property
    def computer(self) -> Computer:
        return self._have("computer", self._computer)

    @property
    def image(self) -> Image:
        return self._have("image", self._image)

    @property
    def profile(self) -> Profile:
        return self._have("profile", self._profile)

    @property
    def is_of_a_capture(self) -> bool:
        """Whether VCL makes the request's image, rather than use it."""
        return self._reservation is not None and self._reservation.state in ("image", "checkpoint")

    def _have(self, part: str, value: T | None) -> T:
        if value is None:
            raise ProvisioningError("invalid_event", f"the {self.call} request has no {part!r} section")
        return value


def read(event: Event) -> Request:
    """The typed request of an event. Raises ProvisioningError `invalid_event` naming the field that is wrong."""
    parts = {name: _section(event.data, name) for name in ("reservation", "computer", "image", "profile")}
    return Request(
        event.call,
        _reservation(parts["reservation"]) if parts["reservation"] else None,
        _computer(parts["computer"]) if parts["computer"] else None,
        _image(parts["image"]) if parts["image"] else None,
        _profile(parts["profile"]) if parts["profile"] else None,
    )


def computer_id(event: Event) -> int | None:
    """The computer an event is about, None if it names none: what the journal serialises by. Never raises."""
    section = event.data.get("computer")
    value = section.get("id") if isinstance(section, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def reservation_id(event: Event) -> int | None:
    """The reservation an event is about, None if it names none. Never raises."""
    section = event.data.get("reservation")
    value = section.get("reservation_id") if isinstance(section, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def safe_name(value: str, what: str) -> str:
    """`value`, if it may become a part of a datastore path. Raises ProvisioningError `invalid_event` if not.

    Refused are separators, control characters, leading dots and anything VCL itself would not put into an image or
    computer name.
    """
    if not _NAME.match(value) or ".." in value:
        raise ProvisioningError(
            "invalid_event",
            f"{what} {value!r} cannot be used in a datastore path: use 1 to 75 of A-Z a-z 0-9 . - _",
        )
    return value


def _section(data: dict[str, Any], name: str) -> _Section | None:
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ProvisioningError("invalid_event", f"{name} is not an object")
    return _Section(name, value)


@dataclass(frozen=True, slots=True)
class _Section:
    """One object of `event.data`, read field by field with an error that names the field."""

    name: str
    fields: dict[str, Any]

    def whole(self, key: str, default: int | None = None, least: int = 0, most: int = 2**31) -> int:
        value = self.fields.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._wrong(key, value, f"a whole number from {least} to {most}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.fields.get(key, default)
        if not isinstance(value, str) or len(value) > 512 or any(ord(char) < 32 or ord(char) == 127 for char in value):
            raise self._wrong(key, value, "a text without control characters")
        return value

    def flag(self, key: str) -> bool:
        value = self.fields.get(key, False)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def mac(self, key: str) -> str | None:
        value = self.fields.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str) or not _MAC.match(value.lower()):
            raise self._wrong(key, value, "a MAC address like 00:50:56:00:01:1b")
        return value.lower()

    def items(self, key: str, kind: type[T]) -> tuple[T, ...]:
        value = self.fields.get(key, [])
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            raise self._wrong(key, value, f"a list of {kind.__name__}")
        return tuple(value)

    def _wrong(self, key: str, value: object, wanted: str) -> ProvisioningError:
        shown = repr(value)[:80]
        return ProvisioningError("invalid_event", f"{self.name}.{key} is {shown}, expected {wanted}")


def _reservation(section: _Section) -> Reservation:
    return Reservation(
        section.whole("request_id"),
        section.whole("reservation_id"),
        section.text("state", ""),
        section.items("cluster", int),
        section.flag("server"),
    )


def _computer(section: _Section) -> Computer:
    return Computer(
        section.whole("id", least=1),
        safe_name(section.text("name"), "computer.name"),
        section.mac("private_mac"),
        section.mac("public_mac"),
    )


def _image(section: _Section) -> Image:
    return Image(
        id=section.whole("id", 0),
        name=safe_name(section.text("name"), "image.name"),
        revision_id=section.whole("revision_id", 0),
        os=section.text("os", ""),
        os_type=section.text("os_type", ""),
        architecture=section.text("architecture", "x86"),
        size_mb=section.whole("size_mb", 0),
        min_cpus=max(1, section.whole("min_cpus", 1, most=255)),
        min_ram_mb=max(4, section.whole("min_ram_mb", 512, most=2**24)),
        project=section.text("project", "vcl"),
    )


def _profile(section: _Section) -> Profile:
    return Profile(
        id=section.whole("id", 0),
        name=section.text("name"),
        datastore_path=section.text("datastore_path", ""),
        vm_path=section.text("vm_path", ""),
        repository_path=section.text("repository_path", ""),
        disk=section.text("disk", "dedicated"),
        networks=section.items("networks", str),
        generated_macs=section.items("generated_macs", bool),
    )
