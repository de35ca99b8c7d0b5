"""The one exception handlers and adapters raise on purpose. Foreign exceptions become it at the adapter's edge."""

from __future__ import annotations

from typing import Any

from bridge.contract import ERROR_CODES


class ProvisioningError(Exception):
    """A call that cannot be done.

    `code` is one of bridge.contract.ERROR_CODES; the message is one sentence an admin can act on (what was tried, on
    what, what to do); `retryable` says that the same call may succeed later without anybody's doing; `detail` is
    plain JSON for programs; `host` names the host whose fault it was, so that placement can be asked for another one.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        detail: dict[str, Any] | None = None,
        host: str | None = None,
    ) -> None:
        assert code in ERROR_CODES, code
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.detail = detail or {}
        self.host = host


class Cancelled(ProvisioningError):
    """The caller, or a newer event for the same computer, does not want this call any more."""

    def __init__(self, message: str) -> None:
        super().__init__("cancelled", message)


class OwnershipLost(Exception):
    """Another service has taken this event over (its epoch moved on): stop silently, touch nothing more."""


class HandedOver(Exception):
    """The service ends: stop at this border and leave the event to the next service."""


class ConfigurationError(Exception):
    """The configuration cannot be used; one sentence naming file, section and key."""


class DependencyUnavailable(Exception):
    """A server the command needs (broker, database, endpoint) cannot be reached; one sentence naming it."""
