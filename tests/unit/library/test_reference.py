from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.library.reference import Reference, of, parse

WINDOWS = b"""#!/usr/bin/vmware
.encoding = "UTF-8"
#os_product_name = "Windows 10"
virtualHW.version = "13"
guestos = "windows9-64"
displayName = "vclv1-27"
annotation = "esxprov event=e claim=c computer=27 image=i"
uuid.bios = "56 4d 00 00 00 00 00 00-00 00 00 00 00 00 00 00"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.fileName = "/vmfs/volumes/nfs1/golden/i/i.vmdk"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "Private"
ethernet0.address = "00:50:56:00:01:1b"
"""


def test_a_vmx_tells_the_hardware_that_its_guest_knows() -> None:
    assert parse(WINDOWS) == Reference("windows9-64", "vmxnet3", "pvscsi", 13, "efi", secure_boot=True)


def test_the_reference_kept_with_an_image_has_the_hardware_and_nothing_that_was_the_vm_s_own() -> None:
    kept = of(WINDOWS)
    assert parse(kept) == parse(WINDOWS)
    assert [line.split(" = ")[0] for line in kept.decode().splitlines()] == [
        "guestOS",
        "virtualHW.version",
        "ethernet0.virtualDev",
        "scsi0.virtualDev",
        "firmware",
        "uefi.secureBoot.enabled",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('guestOS = "ubuntu-64"', Reference(guest_os="ubuntu-64")),
        ("guestOS = ubuntu-64", Reference(guest_os="ubuntu-64")),
        ('guestOS = "x|22 y"', Reference()),
        ('ethernet0.virtualDev = "E1000"', Reference(nic="e1000")),
        ('ethernet0.virtualDev = "sriov"', Reference()),
        ('scsi0.virtualDev = "lsisas1068"', Reference(controller="lsisas1068")),
        ('scsi0.virtualDev = "nvme"', Reference()),
        ('virtualHW.version = "4"', Reference(hardware_version=7)),
        ('virtualHW.version = "21"', Reference(hardware_version=13)),
        ('virtualHW.version = "vmx-11"', Reference()),
        ('firmware = "bios"', Reference(firmware="bios")),
        ('firmware = "coreboot"', Reference()),
        ('uefi.secureBoot.enabled = "TRUE"', Reference()),
    ],
)
def test_a_setting_is_taken_only_in_a_word_it_can_have(line: str, expected: Reference) -> None:
    assert parse(line.encode()) == expected


def test_of_a_setting_that_stands_twice_the_last_counts_whatever_its_case() -> None:
    assert parse(b'guestOS = "ubuntu"\r\nGUESTOS = "rhel7-64"\r\n').guest_os == "rhel7-64"


@given(st.binary())
def test_what_is_no_vmx_says_nothing_or_something_that_can_be_written_down(content: bytes) -> None:
    assert parse(of(content)) == parse(content)
