"""What all commands share: the options before the command, `--json`, and how a command ends when it cannot be done."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from esxprov import config as configuration
from esxprov import logs
from esxprov.errors import ConfigurationError, DependencyUnavailable, ProvisioningError

if TYPE_CHECKING:
    from bridge.client import Client
    from esxprov.database import Database

EX_FAILED = 1
EX_UNAVAILABLE = 69
EX_CONFIG = 78

CONNECT_S = 5.0
"""A person waits, and a broker that is only restarting is worth a second try of the command."""

_UNAVAILABLE_CODES = ("host_unavailable", "vsphere_auth")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


class Failure(click.ClickException):
    """The end of a command: one sentence on stderr, and an exit code."""

    def __init__(self, message: str, exit_code: int = EX_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class, and reads it off the object

    def show(self, file: Any = None) -> None:
        click.echo(f"esxprov: {self.message}", err=True)


class Commands(click.Group):
    """The root of all commands: whatever they raise becomes a Failure here, and nowhere else."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # `esxprov events export | head`: the reader has enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        except Exception as error:
            failure = _expected(error)
            if failure is None and context.params.get("verbose"):
                raise
            raise failure or Failure(
                f"internal error, {type(error).__name__}: {error}; please report it with what -v prints"
            ) from error


def _expected(error: Exception) -> Failure | None:
    if isinstance(error, ConfigurationError):
        return Failure(str(error), EX_CONFIG)
    if isinstance(error, DependencyUnavailable):
        return Failure(str(error), EX_UNAVAILABLE)
    if isinstance(error, ProvisioningError):
        return Failure(error.message, EX_UNAVAILABLE if error.code in _UNAVAILABLE_CODES else EX_FAILED)
    # Imported here, because pika takes its time and most commands do without.
    from bridge.client import NoReply, NoService
    from bridge.envelope import EnvelopeError
    from bridge.message import BrokerUnavailable

    if isinstance(error, BrokerUnavailable | NoService):
        return Failure(str(error), EX_UNAVAILABLE)
    if isinstance(error, NoReply | EnvelopeError):
        return Failure(str(error))
    return None


class Setup:
    """What the options before the command say; the configuration is read when a command needs it."""

    def __init__(self, conf: Path | None, overrides: tuple[str, ...], *, verbose: bool) -> None:
        self._conf = conf
        self._overrides = overrides
        self._verbose = verbose
        # What a command has to say it prints itself; its log is for those who look for a bug.
        logs.configure(logging.DEBUG if verbose else logging.ERROR)

    @property
    def config(self) -> configuration.Config:
        return configuration.load(os.environ, self._overrides, path=self._conf)

    @property
    def publisher_config(self) -> configuration.PublisherConfig:
        """What `esxprov leases publish` needs of the same file."""
        return configuration.load_publisher(os.environ, self._overrides, path=self._conf)

    @property
    def database(self) -> Database:
        """The database with our tables in it, as `check_tables` says."""
        database = self.any_database
        self.check_tables(database)
        return database

    def check_tables(self, database: Database | None = None) -> None:
        """Raises ConfigurationError, with the command to run, unless our tables are those of this program."""
        from esxprov import schema

        schema.check(database or self.any_database)

    @property
    def any_database(self) -> Database:
        """The database, whatever is in it."""
        from esxprov.database import Database

        return Database(self.config.database)

    @property
    def vcl_database(self) -> Database:
        """The database, for what is done before the rest of the configuration is written."""
        from esxprov.database import Database

        return Database(configuration.load_database(os.environ, self._overrides, path=self._conf))

    def database_below(self, root: Path) -> Database:
        """The same for an installation in `root`, where there may be no configuration yet, but VCL's."""
        from esxprov.database import Database

        named = self._conf or os.environ.get("ESXPROV_CONF")
        path = Path(named) if named else root / str(configuration.DEFAULT_PATH).lstrip("/")
        if not named and not path.exists():
            path = Path(os.devnull)
        vcld_conf = root / str(configuration.VCLD_CONF).lstrip("/")
        return Database(configuration.load_database(os.environ, self._overrides, path=path, vcld_conf=vcld_conf))

    def client(self) -> Client:
        """A connection to the broker, to be entered."""
        from bridge.client import Client
        from esxprov.broker import broker_parameters

        config = self.config
        return Client(broker_parameters(config.cli), config.service.management_node, connect_s=CONNECT_S)

    def log_as_a_service(self) -> None:
        """One line per step and outcome, for journald."""
        logs.configure(logging.DEBUG if self._verbose else logging.INFO)


setup = click.make_pass_decorator(Setup)
