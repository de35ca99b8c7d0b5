"""What the harness takes from the test bed: `python -m tests.vcld.bed CONF` prints it as shell assignments.

Everything comes from the esxprov.conf that the bed has written, so that vcld, the shim and the service use one source.
It also puts an image into the golden library which no host can take, and another one into the repository only.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from esxprov import config
from tests.testbed.bed import DATASTORE, HOSTS, IMAGES, REPOSITORY, REPOSITORY_PATH
from tests.testbed.vsphere import golden_disk

HUGE = "esxprovtest-huge-v0"
"""An image that is there; its row in VCL asks for more RAM than any host has."""
STORED = "esxprovtest-stored-v0"
"""An image that is in the repository only."""


def assignments(path: Path) -> dict[str, str]:
    """`ESXPROV_TEST_<NAME>` for `run` and `drive`. Raises ConfigurationError."""
    loaded = config.load(dict(os.environ), path=path)
    database = loaded.database
    pool = next(iter(loaded.pools.values()))
    server = f"localhost;mysql_socket={database.unix_socket}" if database.unix_socket else database.host
    if not database.unix_socket:
        server += f";port={database.port}"
    return {
        "NODE": loaded.service.management_node,
        "DB_SERVER": server,
        "DB_NAME": database.name,
        "DB_USER": database.user,
        "DB_PASSWORD": database.password,
        "PROFILE": pool.profile,
        "HOSTS": " ".join(host.name for host in HOSTS),
        "DATASTORE": DATASTORE,
        "IMAGE": IMAGES[0].name,
        "HUGE": HUGE,
        "STORED": STORED,
        "REPOSITORY": REPOSITORY_PATH,
        "DISK": pool.disk.value,
    }


def main() -> None:
    path = Path(sys.argv[1])
    golden_disk(path.parent / DATASTORE / "golden", HUGE, 1)
    golden_disk(path.parent / REPOSITORY / "images", STORED, 16, payload=STORED.encode())
    for name, value in assignments(path).items():
        print(f"export ESXPROV_TEST_{name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
