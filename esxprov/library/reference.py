"""The reference VMX beside an image's disk: the virtual hardware its guest was installed on, and nothing else.

A guest boots only with the controller, and from the firmware, that it knows. Who it was (MACs, uuids, names, paths) is
nobody's business any more.
"""

from __future__ import annotations

import re

_LINE = re.compile(r'\s*([A-Za-z][A-Za-z0-9.:_]{0,63})\s*=\s*"([^"\r\n]{0,255})"\s*\Z')

KEYS = (
    "virtualHW.version",
    "guestOS",
    "firmware",
    "uefi.secureBoot.enabled",
    "scsi0.virtualDev",
    "ethernet0.virtualDev",
)
"""All that is kept of a VMX. An IDE disk is recognised by its descriptor."""

_VALUE = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_AS_WRITTEN = {key.lower(): key for key in KEYS}


def of(vmx: bytes) -> bytes:
    """The reference VMX of a VM's; keys whose values make no sense are left out."""
    found = settings(vmx)
    return "".join(f'{key} = "{found[key]}"\n' for key in KEYS if key in found).encode()


def settings(vmx: bytes) -> dict[str, str]:
    """The values of KEYS in a VMX. Of a key that stands there twice the first one counts, case does not."""
    found: dict[str, str] = {}
    for line in vmx.decode("utf-8", "replace").splitlines():
        setting = _LINE.match(line)
        key = _AS_WRITTEN.get(setting[1].lower()) if setting else None
        if setting and key and _VALUE.match(setting[2]):
            found.setdefault(key, setting[2])
    return found
