"""Where vcld looks for modules besides its own library."""

from __future__ import annotations

from pathlib import Path

import pytest

from esxprov.doctor.shim import perl5lib


@pytest.mark.parametrize(
    ("environment", "places"),
    [
        ("", []),
        ("PERL5LIB=/opt/a:/opt/b\n", ["/opt/a", "/opt/b"]),
        ("# PERL5LIB=/opt/a\n", []),
        ('PERL5LIB="/opt/a"\n', ["/opt/a"]),
        ("  PERL5LIB='/opt/a'  \n", ["/opt/a"]),
        ("PERL5LIB=/opt/a\nOTHER=1\nPERL5LIB=/opt/b\n", ["/opt/b"]),
        ("MYPERL5LIB=/opt/a\n", []),
    ],
)
def test_perl5lib_is_read_as_systemd_does(environment: str, places: list[str]) -> None:
    assert perl5lib(environment) == [Path(place) for place in places]
