"""The reference VMX of an image: the hardware that its guest was installed on, and so has drivers and licences for.

It was some VM's configuration file, perhaps written by hand, so only what is listed here is taken from it, and only
if it is one of the words that such a setting can have. Networks, MACs, uuids and paths were that VM's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

OLDEST_HARDWARE = 7
NEWEST_HARDWARE = 13
"""What every host we can talk to takes: ESXi 6.5 and newer. 13 is also the least for secure boot."""

_LINE = re.compile(r'\s*([A-Za-z][\w.:]{0,63})\s*=\s*"?([^"\r\n]*)"?\s*\Z')
_GUEST = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,39}\Z")
_NICS = ("vlance", "vmxnet", "vmxnet3", "e1000", "e1000e")
_CONTROLLERS = ("buslogic", "lsilogic", "lsisas1068", "pvscsi")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a reference VMX says; None or False for what it does not say, or not in words we know.

    `nic` and `controller` are VMX's words for virtual devices, `hardware_version` a number that every host takes,
    `firmware` "bios" or "efi"; `secure_boot` is never true without the latter.
    """

    guest_os: str | None = None
    nic: str | None = None
    controller: str | None = None
    hardware_version: int | None = None
    firmware: str | None = None
    secure_boot: bool = False


def parse(content: bytes) -> Reference:
    """What a VMX says of the hardware. Anything else than a VMX says nothing."""
    found = _settings(content)
    guest = found.get("guestos", "")
    firmware = _one_of(("bios", "efi"), found.get("firmware"))
    return Reference(
        guest_os=guest if _GUEST.match(guest) else None,
        nic=_one_of(_NICS, found.get("ethernet0.virtualdev")),
        controller=_one_of(_CONTROLLERS, found.get("scsi0.virtualdev")),
        hardware_version=_hardware(found.get("virtualhw.version", "")),
        firmware=firmware,
        secure_boot=firmware == "efi" and found.get("uefi.secureboot.enabled", "").lower() == "true",
    )


def of(vmx: bytes) -> bytes:
    """The reference VMX to put beside an image that is captured from the VM with this one."""
    found = parse(vmx)
    lines = {
        "guestOS": found.guest_os,
        "virtualHW.version": found.hardware_version,
        "ethernet0.virtualDev": found.nic,
        "scsi0.virtualDev": found.controller,
        "firmware": found.firmware,
        "uefi.secureBoot.enabled": "TRUE" if found.secure_boot else None,
    }
    return "".join(f'{key} = "{value}"\n' for key, value in lines.items() if value is not None).encode()


def _settings(content: bytes) -> Mapping[str, str]:
    """By lower-case keys, as ESX compares them; of one that stands twice, the last counts."""
    matches = map(_LINE.match, content.decode("utf-8", "replace").split("\n"))
    return {found[1].lower(): found[2].strip() for found in matches if found}


def _one_of(words: tuple[str, ...], value: str | None) -> str | None:
    return value.lower() if value is not None and value.lower() in words else None


def _hardware(value: str) -> int | None:
    if not re.fullmatch(r"[0-9]{1,3}", value):
        return None
    return min(max(int(value), OLDEST_HARDWARE), NEWEST_HARDWARE)
