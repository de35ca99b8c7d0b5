"""`[datastore] directory/file`, taken apart and put together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.errors import ProvisioningError
from esxprov.vsphere.paths import DatastorePath

_NAMES = st.text(
    st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters="[]/\\"), min_size=1, max_size=20
)
_PARTS = st.text(st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters="/"), min_size=1, max_size=20)
_PATHS = st.lists(_PARTS.filter(lambda part: part not in (".", "..") and not part.startswith(" ")), max_size=4)


@given(_NAMES, _PATHS)
def test_a_formatted_path_is_parsed_to_the_same_path(datastore: str, parts: list[str]) -> None:
    path = DatastorePath(datastore, "/".join(parts))
    assert DatastorePath.parse(str(path)) == path


@given(st.text(max_size=60))
def test_any_text_is_a_path_or_refused(text: str) -> None:
    try:
        path = DatastorePath.parse(text)
    except ProvisioningError:
        return
    assert not {"", ".", ".."} & set(path.path.split("/")) or path.is_root


@pytest.mark.parametrize(
    ("text", "datastore", "path"),
    [
        ("[nfs1] inuse/vm1/vm1.vmx", "nfs1", "inuse/vm1/vm1.vmx"),
        ("[nfs1]inuse/vm1", "nfs1", "inuse/vm1"),
        ("[local store (1)] my images/a [b].vmdk", "local store (1)", "my images/a [b].vmdk"),
        ("[nfs1] golden/", "nfs1", "golden"),
        ("[nfs1] ", "nfs1", ""),
        ("[nfs1]", "nfs1", ""),
    ],
)
def test_paths_with_blanks_and_brackets(text: str, datastore: str, path: str) -> None:
    assert DatastorePath.parse(text) == DatastorePath(datastore, path)


@pytest.mark.parametrize(
    "text",
    ["", "inuse/vm1", "[] x", "[a/b] x", "[nfs1] ../x", "[nfs1] a/../b", "[nfs1] /etc", "[nfs1] a//b", "[nfs1] a\nb"],
)
def test_what_is_no_path_or_climbs_is_refused(text: str) -> None:
    with pytest.raises(ProvisioningError, match=r"datastore path|write the path in full"):
        DatastorePath.parse(text)


def test_name_and_parent() -> None:
    path = DatastorePath.parse("[nfs1] golden/img/img.vmdk")
    assert path.name == "img.vmdk"
    assert str(path.parent) == "[nfs1] golden/img"
    assert path.parent.parent.parent.is_root
