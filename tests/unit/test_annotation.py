from __future__ import annotations

import pytest

from esxprov import annotation
from esxprov.annotation import Annotation

OWNER = Annotation("event-1", "claim-1", 27, 5678, "vmwarelinux-base9-v3")
LINE = str(OWNER)


def test_a_line_is_read_as_it_was_written() -> None:
    assert annotation.read(LINE) == OWNER


@pytest.mark.parametrize(
    "content",
    [
        f'annotation = "{LINE}"\n',
        f'displayName = "x"\r\nannotation = "{LINE}"\r\nmemSize = "4"\r\n',
        f'Annotation="{LINE}"',
        f'annotation = "a note of an admin, |22quoted|22|0A{LINE}|0Aand more"\n',
    ],
)
def test_it_is_found_in_a_vmx_as_vsphere_writes_it(content: str) -> None:
    assert annotation.of_vmx(content.encode()) == OWNER


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b'annotation = ""', b'guestinfo.annotation2 = "x"', f"# {LINE}\n".encode()]
)
def test_a_vmx_without_it_is_nobodys(content: bytes) -> None:
    assert annotation.of_vmx(content) is None
