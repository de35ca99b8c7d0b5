"""Between our words and pika's: parameters, properties, deliveries, and errors as sentences."""

from __future__ import annotations

import logging
import re
import ssl
from typing import Any, cast

import pika
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

from bridge.message import Delivery, Properties
from bridge.parameters import BrokerParameters

# pika reports each lost connection many times over, as errors with class names in them; we say it once, in words.
logging.getLogger("pika").setLevel(logging.CRITICAL)

CONNECT_S = 10.0
_TRANSIENT, _PERSISTENT = 1, 2
_ACCESS_REFUSED, _NOT_FOUND, _INEQUIVALENT, _NOT_ALLOWED = 403, 404, 406, 530
_DENIED = (
    pika.exceptions.AuthenticationError,
    pika.exceptions.ProbableAuthenticationError,
    pika.exceptions.ProbableAccessDeniedError,
)


def pika_parameters(parameters: BrokerParameters, name: str) -> pika.ConnectionParameters:
    """OSError (ssl.SSLError is one) if the CA file cannot be read."""
    context = parameters.tls_context()
    return pika.ConnectionParameters(
        host=parameters.host,
        port=parameters.port,
        virtual_host=parameters.virtual_host,
        credentials=pika.PlainCredentials(parameters.user, parameters.password, erase_on_connect=True),
        heartbeat=parameters.heartbeat_s,
        ssl_options=cast(Any, pika.SSLOptions(context, parameters.host) if context else None),
        connection_attempts=1,
        socket_timeout=CONNECT_S,
        stack_timeout=CONNECT_S,
        client_properties={"connection_name": name},
    )


def pika_properties(properties: Properties, user: str) -> pika.BasicProperties:
    """Always with the connecting user: the broker refuses any other, so a reader can trust it."""
    return pika.BasicProperties(
        message_id=properties.message_id,
        type=properties.type,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        timestamp=properties.timestamp,
        content_type=properties.content_type,
        headers=dict(properties.headers) or None,
        user_id=user,
        delivery_mode=_PERSISTENT if properties.persistent else _TRANSIENT,
    )


def delivery_of(method: Any, properties: Any, body: bytes, generation: int) -> Delivery:
    """pika leaves what is no UTF-8 as bytes; it is as good as absent."""

    def text(value: object) -> str | None:
        return value if isinstance(value, str) else None

    return Delivery(
        body=body,
        routing_key=text(method.routing_key) or "",
        redelivered=bool(method.redelivered),
        generation=generation,
        tag=method.delivery_tag,
        message_id=text(properties.message_id),
        type=text(properties.type),
        correlation_id=text(properties.correlation_id),
        reply_to=text(properties.reply_to),
        user_id=text(properties.user_id),
        timestamp=properties.timestamp,
        headers=properties.headers or {},
    )


def sentence(error: BaseException | str, parameters: BrokerParameters) -> str:
    """What happened and what to do, for an admin; pika nests the cause several exceptions deep."""
    cause = _cause(error)
    broker = f"the broker {parameters.address}"
    if isinstance(cause, _DENIED):
        return (
            f"{broker} does not let user {parameters.user!r} into virtual host {parameters.virtual_host!r}: "
            "check password and permissions"
        )
    if isinstance(cause, ChannelClosedByBroker | ConnectionClosedByBroker):
        return f"{broker} refused: {cause.reply_code} {cause.reply_text}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of {broker} is not to be trusted: {cause.verify_message}; check ca_file and host name"
    if isinstance(cause, ssl.SSLError):
        return f"{broker} does not speak TLS with us: {cause.reason or cause}"
    if isinstance(cause, OSError):
        why = cause.strerror or cause or type(cause).__name__
        return f"{broker} cannot be reached: {why}; check that RabbitMQ runs there, and url in esxprov.conf"
    if "Timeout while setting up" in str(cause):
        return f"{broker} does not answer within {CONNECT_S:.0f} s"
    return f"the connection to {broker} is lost: {cause or type(cause).__name__}"


def is_refusal(error: BaseException | str) -> bool:
    """Whether trying again is pointless until somebody changes something.

    A broker that is just going down can look like a refused login to pika, so the reply code must say it.
    """
    cause = _cause(error)
    if isinstance(cause, ChannelClosedByBroker | ConnectionClosedByBroker):
        return cause.reply_code in (_ACCESS_REFUSED, _INEQUIVALENT, _NOT_ALLOWED)
    if isinstance(cause, _DENIED):
        return re.search(rf"\b({_ACCESS_REFUSED}|{_NOT_ALLOWED})\b", str(cause)) is not None
    return isinstance(cause, ssl.SSLCertVerificationError)


def missing_exchange(error: Exception) -> str | None:
    """The exchange that a closed channel's last message was sent to in vain."""
    if isinstance(error, ChannelClosedByBroker) and error.reply_code == _NOT_FOUND:
        found = re.search(r"no exchange '([^']*)'", error.reply_text)
        return found[1] if found else None
    return None


def _cause(error: BaseException | str) -> BaseException | str:
    """The innermost exception of pika's wrappers."""
    for inner in getattr(error, "exceptions", ())[-1:] or [getattr(error, "exception", None)]:
        if isinstance(inner, BaseException):
            return _cause(inner)
    args = getattr(error, "args", ())
    if args and isinstance(args[0], BaseException):
        return _cause(args[0])
    return error
