"""What the harness takes from the test bed: `python -m tests.vcld.bed CONF` prints it as shell assignments.

Everything comes from the esxprov.conf that the bed has written, so that vcld, the shim and the service use one source.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from esxprov import config


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
        "GOLDEN": pool.golden,
    }


def main() -> None:
    for name, value in assignments(Path(sys.argv[1])).items():
        print(f"export ESXPROV_TEST_{name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
