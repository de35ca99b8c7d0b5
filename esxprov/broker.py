"""The way to the broker, of the configuration."""

from __future__ import annotations

from bridge.parameters import BrokerParameters
from esxprov.config import BrokerConfig
from esxprov.errors import ConfigurationError

CONNECT_S = 15
"""How long the broker may take at the start before we give up and leave the next try to systemd."""


def broker_parameters(config: BrokerConfig) -> BrokerParameters:
    """A configured broker user as the bridge wants it. Raises ConfigurationError for a URL that is not safe to use."""
    try:
        return BrokerParameters.from_url(config.url, config.password, config.ca_file)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
