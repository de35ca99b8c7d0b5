from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esxprov import vmx
from esxprov.library import reference
from esxprov.model import Image

VMX = vmx.author(
    vmx.VmPlan(
        "vclv1-27",
        Image(1, "win10-v1", os="vmwarewin10", architecture="x86_64"),
        "win10-v1.vmdk",
        "lsilogic",
        (vmx.NicPlan("Private", "00:50:56:00:00:aa"),),
        "esxprov event=1 claim=2 computer=3 image=win10-v1",
    )
)


def test_of_a_vmx_only_the_hardware_is_kept() -> None:
    assert reference.settings(reference.of(VMX)) == {
        "virtualHW.version": str(vmx.HARDWARE_VERSION),
        "guestOS": "windows9-64",
        "scsi0.virtualDev": "lsisas1068",
        "ethernet0.virtualDev": "e1000",
    }


def test_the_firmware_of_a_guest_that_needs_efi_is_kept() -> None:
    text = b'FIRMWARE = "efi"\r\nuefi.secureBoot.enabled = "TRUE"\r\n'
    assert reference.of(text) == b'firmware = "efi"\nuefi.secureBoot.enabled = "TRUE"\n'


def test_a_value_that_makes_no_sense_is_left_out() -> None:
    assert reference.of(b'guestOS = "x|22|0Afirmware = efi"\nfirmware = ""\nscsi0.virtualDev = lsilogic\n') == b""


@given(st.binary(max_size=300))
def test_a_reference_is_the_reference_of_itself_whatever_it_was_made_of(content: bytes) -> None:
    made = reference.of(content)
    assert reference.of(made) == made
