"""Writing a VM's configuration file from the database's data. Pure: facts in, bytes out.

No value can leave its line: whatever a template inserts has its quotes, bars and control characters written as `|XX`,
which is how ESX itself stores them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cache

import jinja2

from esxprov.library.reference import Reference
from esxprov.model import Image

HARDWARE_VERSION = 11
"""ESXi 6.0 and newer, unless the image was made on something else. A VM made by us is thrown away with its
reservation, so there is nothing to gain from more.
"""

MOST_NICS = 10
"""So many network cards vSphere gives a VM."""

_LEAST_FOR_NESTED = 9

_UNSAFE = re.compile(r'["|\x00-\x1f\x7f-\x9f\u2028\u2029]')


@dataclass(frozen=True, slots=True)
class Guest:
    """What a guest operating system wants: VMware's guest id, NIC model, SCSI controller, most CPU sockets."""

    os: str
    nic: str
    controller: str
    max_sockets: int = 64


@dataclass(frozen=True, slots=True)
class NicPlan:
    """A network card to be. `mac` None lets the hypervisor make one."""

    network: str
    mac: str | None


@dataclass(frozen=True, slots=True)
class VmPlan:
    """All that goes into a VMX.

    `disk` is a file beside it or a `/vmfs/volumes/...` path; `adapter` is that of its descriptor. `reference` is what
    the image was made on, and `nested` whether the VM shall be able to run VMs itself.
    """

    name: str
    image: Image
    disk: str
    adapter: str
    nics: tuple[NicPlan, ...]
    annotation: str
    reference: Reference = field(default_factory=Reference)
    nested: bool = False


# 32 bit, 64 bit: what VCL's own VMware module gives them, so that its images find the hardware they know.
_BY_TYPE: dict[str, tuple[Guest, Guest]] = {
    "linux": (Guest("otherlinux", "vlance", "buslogic"), Guest("otherlinux-64", "e1000", "lsilogic")),
    "osx": (Guest("darwin10-64", "e1000", "lsilogic"), Guest("darwin10-64", "e1000", "lsilogic")),
    "windows": (Guest("windows7", "e1000", "lsisas1068", 2), Guest("windows7-64", "e1000", "lsisas1068", 2)),
}
# The same by VCL's OS name.
_GUESTS: tuple[tuple[str, Guest, Guest], ...] = (
    (r"xp", Guest("winxppro", "vlance", "buslogic", 2), Guest("winxppro-64", "e1000", "lsilogic", 2)),
    (r"vista", Guest("winvista", "e1000", "lsilogic", 2), Guest("winvista-64", "e1000", "lsilogic", 2)),
    (r"win.?7", Guest("windows7", "e1000", "lsilogic", 2), Guest("windows7-64", "e1000", "lsilogic", 2)),
    (r"win.?8", Guest("windows8", "e1000", "lsilogic", 2), Guest("windows8-64", "e1000", "lsilogic", 2)),
    (r"win.?1[01]", Guest("windows9", "e1000e", "lsisas1068", 2), Guest("windows9-64", "e1000", "lsisas1068", 2)),
    (r"2003", Guest("winnetenterprise", "vlance", "lsilogic"), Guest("winnetenterprise-64", "e1000", "lsilogic")),
    (r"2008", Guest("longhorn", "e1000", "lsilogic"), Guest("windows7srv-64", "e1000", "lsilogic")),
    (r"2012", Guest("windows8srv-64", "e1000e", "lsisas1068"), Guest("windows8srv-64", "e1000e", "lsisas1068")),
    (r"20(16|19|22)", Guest("windows9srv-64", "e1000e", "lsisas1068"), Guest("windows9srv-64", "e1000e", "lsisas1068")),
    (r"osx|darwin", *_BY_TYPE["osx"]),
    (r"ubuntu", Guest("ubuntu", "vlance", "buslogic"), Guest("ubuntu-64", "e1000", "lsilogic")),
    (r"win", *_BY_TYPE["windows"]),
    (r"linux", *_BY_TYPE["linux"]),
)
_OTHER = (Guest("otherlinux", "e1000", "lsilogic"), Guest("otherlinux-64", "e1000", "lsilogic"))


def guest_of(image: Image) -> Guest:
    """The guest by VCL's OS name and architecture; by the OS type where the name tells nothing."""
    wide = image.architecture == "x86_64"
    for pattern, narrow_guest, wide_guest in _GUESTS:
        if re.search(pattern, image.os, re.IGNORECASE):
            return wide_guest if wide else narrow_guest
    return _BY_TYPE.get(image.os_type, _OTHER)[wide]


def ram_mb(image: Image) -> int:
    """The image's RAM, rounded down to the multiple of 4 that ESX demands."""
    return max(4, image.min_ram_mb // 4 * 4)


def author(plan: VmPlan) -> bytes:
    """The VMX file. What the image was made on comes first, then what its operating system is known to want."""
    reference = plan.reference
    hardware_version = reference.hardware_version or HARDWARE_VERSION
    usual = guest_of(plan.image)
    guest = replace(usual, os=reference.guest_os or usual.os, nic=reference.nic or usual.nic)
    text = _template().render(
        hardware_version=hardware_version,
        firmware=reference.firmware,
        secure_boot=reference.secure_boot,
        nested=plan.nested and hardware_version >= _LEAST_FOR_NESTED,
        name=plan.name,
        annotation=plan.annotation,
        guest=guest,
        ram_mb=ram_mb(plan.image),
        cpus=plan.image.min_cpus,
        cores_per_socket=_cores_per_socket(plan.image.min_cpus, guest.max_sockets),
        disk=plan.disk,
        controller=_controller(plan.adapter, reference.controller or usual.controller),
        nics=plan.nics,
    )
    return text.encode()


def _controller(adapter: str, wanted: str) -> str:
    """The controller a disk can hang on: its descriptor knows ide, buslogic and lsilogic; the latter fits SAS and the
    paravirtual one as well.
    """
    kind = adapter.lower()
    if kind in ("ide", "buslogic"):
        return kind
    return wanted if wanted != "buslogic" else "lsilogic"


def _cores_per_socket(cpus: int, max_sockets: int) -> int:
    """The smallest divisor of `cpus` that needs no more sockets than the guest may use."""
    return next(cores for cores in range(1, cpus + 1) if cpus % cores == 0 and cpus // cores <= max_sockets)


def escape(value: object) -> str:
    """A value as it stands between the quotes of a VMX line."""
    return _UNSAFE.sub(lambda found: "".join(f"|{byte:02X}" for byte in found[0].encode()), str(value))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("esxprov", "share/templates"),
        autoescape=False,  # not HTML: `finalize` escapes every inserted value for VMX
        finalize=escape,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=False,
    )
    return environment.get_template("vm.vmx.j2")
