from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.annotation import Annotation, read
from esxprov.library.reference import Reference
from esxprov.model import Image
from esxprov.vmx import NicPlan, VmPlan, author, escape, guest_of, ram_mb

LINE = re.compile(r'([.\w:]+) = "([^"|\x00-\x1f\x7f]|\|[0-9A-F]{2})*"\Z')


def plan(**changes: object) -> VmPlan:
    values: dict[str, object] = {
        "name": "vclv1-27",
        "image": Image(9, "vmwarelinux-base9-v3", os="vmwarelinux", os_type="linux", architecture="x86_64", min_cpus=2),
        "disk": "vmwarelinux-base9-v3.vmdk",
        "adapter": "lsilogic",
        "nics": (NicPlan("Private", "00:50:56:00:01:1b"), NicPlan("Public", None)),
        "annotation": "esxprov",
    }
    return VmPlan(**{**values, **changes})  # type: ignore[arg-type]


def keys(vmx: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in vmx.decode().splitlines():
        assert LINE.match(line), line
        key, _, value = line.partition(" = ")
        assert key not in found, f"{key} stands twice"
        found[key] = value[1:-1]
    return found


def test_a_vmx_has_the_image_s_ram_and_cpus_and_the_computer_s_macs() -> None:
    found = keys(author(plan()))
    assert (found["memSize"], found["numvcpus"], found["guestOS"]) == ("512", "2", "otherlinux-64")
    assert (found["ethernet0.networkName"], found["ethernet0.address"]) == ("Private", "00:50:56:00:01:1b")
    assert found["ethernet0.addressType"] == "static"


def test_a_mac_that_the_row_does_not_give_is_left_to_the_hypervisor() -> None:
    found = keys(author(plan()))
    assert found["ethernet1.addressType"] == "generated"
    assert "ethernet1.address" not in found


def test_no_uuid_of_an_earlier_life_is_written_so_power_on_asks_no_question() -> None:
    found = keys(author(plan()))
    assert "uuid.bios" not in found
    assert "uuid.location" not in found
    assert found["uuid.action"] == "keep"


@pytest.mark.parametrize(("asked", "given_"), [(512, 512), (2049, 2048), (2051, 2048), (4, 4)])
def test_ram_is_rounded_down_to_a_multiple_of_four(asked: int, given_: int) -> None:
    assert ram_mb(Image(1, "i", min_ram_mb=asked)) == given_


@pytest.mark.parametrize(
    ("os", "os_type", "architecture", "guest", "nic"),
    [
        ("vmwarewin7", "windows", "x86_64", "windows7-64", "e1000"),
        ("vmwarewin10", "windows", "x86_64", "windows9-64", "e1000"),
        ("vmwarewin10", "windows", "x86", "windows9", "e1000e"),
        ("vmwarewinxp", "windows", "x86", "winxppro", "vlance"),
        ("vmwarewin2003", "windows", "x86", "winnetenterprise", "vlance"),
        ("vmwarewin2008", "windows", "x86_64", "windows7srv-64", "e1000"),
        ("vmwarewin2012", "windows", "x86_64", "windows8srv-64", "e1000e"),
        ("vmwarewin2016", "windows", "x86_64", "windows9srv-64", "e1000e"),
        ("vmwareubuntu", "linux", "x86_64", "ubuntu-64", "e1000"),
        ("vmwareosx", "osx", "x86_64", "darwin10-64", "e1000"),
        ("rhel8", "linux", "x86_64", "otherlinux-64", "e1000"),
        ("vmwareubuntu", "linux", "x86", "ubuntu", "vlance"),
        ("solaris", "unix", "x86", "otherlinux", "e1000"),
        ("srv2025", "windows", "x86_64", "windows7-64", "e1000"),
        ("sonoma", "osx", "x86_64", "darwin10-64", "e1000"),
    ],
)
def test_guest_and_nic_follow_vcl_s_os_name_and_architecture(
    os: str, os_type: str, architecture: str, guest: str, nic: str
) -> None:
    found = guest_of(Image(1, "i", os=os, os_type=os_type, architecture=architecture))
    assert (found.os, found.nic) == (guest, nic)


def test_os_x_gets_the_chipset_and_the_input_devices_it_knows_and_nobody_else_does() -> None:
    keys_of_os_x = {"ich7m.present", "smc.present", "keyboard.vusb.enable", "mouse.vusb.enable", "usb:2.deviceType"}
    assert keys_of_os_x <= keys(author(plan(image=Image(1, "i", os="vmwareosx", os_type="osx")))).keys()
    assert keys_of_os_x.isdisjoint(keys(author(plan())))


@pytest.mark.parametrize(
    ("adapter", "os", "key", "value"),
    [
        ("lsilogic", "vmwarelinux", "scsi0.virtualDev", "lsilogic"),
        ("lsilogic", "vmwarewin10", "scsi0.virtualDev", "lsisas1068"),
        ("lsilogic", "vmwarewindows", "scsi0.virtualDev", "lsisas1068"),
        ("buslogic", "vmwarewinxp", "scsi0.virtualDev", "buslogic"),
        ("ide", "vmwarewin7", "ide0:0.fileName", "vmwarelinux-base9-v3.vmdk"),
    ],
)
def test_the_controller_is_one_the_disk_was_made_for(adapter: str, os: str, key: str, value: str) -> None:
    image = Image(1, "i", os=os, architecture="x86_64")
    assert keys(author(plan(adapter=adapter, image=image)))[key] == value


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"reference": Reference(guest_os="rhel7-64")}, "guestOS", "rhel7-64"),
        ({"reference": Reference(nic="vmxnet3")}, "ethernet1.virtualDev", "vmxnet3"),
        ({"reference": Reference(controller="pvscsi")}, "scsi0.virtualDev", "pvscsi"),
        ({"reference": Reference(controller="pvscsi"), "adapter": "buslogic"}, "scsi0.virtualDev", "buslogic"),
        ({"reference": Reference(controller="buslogic")}, "scsi0.virtualDev", "lsilogic"),
        ({"reference": Reference(hardware_version=7)}, "virtualHW.version", "7"),
        ({"reference": Reference(firmware="efi")}, "firmware", "efi"),
        ({"reference": Reference(firmware="efi", secure_boot=True)}, "uefi.secureBoot.enabled", "TRUE"),
        ({"reference": Reference()}, "guestOS", "otherlinux-64"),
        ({"reference": Reference()}, "virtualHW.version", "11"),
        ({"nested": True}, "vhv.enable", "TRUE"),
        ({}, "snapshot.redoNotWithParent", "TRUE"),
        ({}, "msg.autoAnswer", "TRUE"),
        ({}, "tools.syncTime", "FALSE"),
        ({}, "tools.remindInstall", "FALSE"),
        ({}, "toolScripts.afterPowerOn", "FALSE"),
        ({}, "mem.hotadd", "TRUE"),
        ({}, "vcpu.hotadd", "TRUE"),
        ({}, "pciBridge7.virtualDev", "pcieRootPort"),
        ({}, "vmci0.present", "TRUE"),
        ({}, "usb.present", "TRUE"),
        ({}, "floppy0.present", "FALSE"),
        ({}, "ide1:0.startConnected", "FALSE"),
    ],
)
def test_the_hardware_is_what_the_image_was_made_on_and_what_vcl_s_module_gives(
    changes: dict[str, object], key: str, value: str
) -> None:
    assert keys(author(plan(**changes)))[key] == value


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, "firmware"),
        ({}, "uefi.secureBoot.enabled"),
        ({}, "vhv.enable"),
        ({"nested": True, "reference": Reference(hardware_version=8)}, "vhv.enable"),
    ],
)
def test_what_is_not_asked_for_or_not_known_to_the_hardware_is_not_written(
    changes: dict[str, object], key: str
) -> None:
    assert key not in keys(author(plan(**changes)))


def test_every_network_has_a_card() -> None:
    networks = ("Private", "Public", "Storage", "Lab")
    found = keys(author(plan(nics=tuple(NicPlan(network, None) for network in networks))))
    assert tuple(found[f"ethernet{number}.networkName"] for number in range(4)) == networks


@pytest.mark.parametrize(
    ("cpus", "os", "cores"), [(4, "vmwarewin7", "2"), (4, "vmwarelinux", "1"), (3, "vmwarewin7", "3")]
)
def test_a_guest_that_is_sold_by_sockets_gets_its_cpus_as_cores(cpus: int, os: str, cores: str) -> None:
    image = Image(1, "i", os=os, os_type="linux", architecture="x86_64", min_cpus=cpus)
    assert keys(author(plan(image=image)))["cpuid.coresPerSocket"] == cores


@given(st.text(), st.text(), st.text())
def test_no_value_leaves_its_line(name: str, network: str, annotation: str) -> None:
    found = keys(author(plan(name=name, nics=(NicPlan(network, None),), annotation=annotation)))
    assert "ethernet0.networkName" in found


@given(st.text())
def test_an_escaped_value_reads_back_as_it_was(value: str) -> None:
    back = re.sub(rb"\|([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), escape(value).encode(errors="replace"))
    assert back.decode() == value.encode(errors="replace").decode()


@given(
    st.uuids().map(str),
    st.uuids().map(str),
    st.integers(1, 65535),
    st.none() | st.integers(1, 10**7),
    st.from_regex(r"\A\w{1,70}\Z"),
)
def test_an_annotation_reads_back_from_among_other_lines(
    event: str, claim: str, computer: int, reservation: int | None, image: str
) -> None:
    written = Annotation(event, claim, computer, reservation, image)
    assert read(f"made by hand\n{written}\nand more") == written


def test_the_annotation_of_a_stranger_s_vm_is_not_ours() -> None:
    assert read("esxprov is nice") is None
