"""One thread owns the connection to the broker, everybody else talks to it by thread-safe calls.

It is pika's SelectConnection and not the blocking one, because the latter waits for each confirm before it does
anything else: here many publishers' confirms are under way at once, while deliveries come in, and connecting can be
interrupted. The loop outlives connections, so that a call made while there is none is answered like any other.

A connection has two channels: what the broker dislikes about a message closes the channel it was published on, and
must not touch the deliveries. Anything that goes wrong on the other channel ends the connection, and all is built
anew: declared, bound, consumed. There is no second way to repair something.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.exceptions import AMQPConnectionError

from bridge.amqp.browse import Browse
from bridge.amqp.confirms import Publication
from bridge.amqp.consumers import Consumers, tell
from bridge.amqp.publisher import Publisher, fail
from bridge.amqp.translate import is_refusal, pika_parameters, sentence
from bridge.message import BrokerRefused, BrokerUnavailable, Delivery, Properties, PublishOutcome
from bridge.parameters import BrokerParameters
from bridge.topology import Topology

log = logging.getLogger(__name__)

RECONNECT_FIRST_S = 0.2
RECONNECT_MOST_S = 10.0
POSTED_S = 0.02
CLOSE_S = 2.0
"""How long the broker may take to agree to a close; one that is out of memory does not read, and so never agrees."""


class _Connection(SelectConnection):
    def abort(self, reason: str) -> None:
        """Drop the socket without a word. pika has this only for itself, its own timeouts end so."""
        self._terminate_stream(AMQPConnectionError(reason))  # type: ignore[attr-defined]


def _nothing(*_: Any) -> None:
    """The hook of somebody who does not mind."""


class BrokerThread:
    """One connection to the broker, kept up until stop().

    `on_up` and `on_down(reason)`, like the consumers' callbacks, run on the I/O thread and must only enqueue.
    `name` is how the connection is called in the broker's own lists.
    """

    def __init__(
        self,
        parameters: BrokerParameters,
        *,
        name: str = "esxprov",
        on_up: Callable[[], None] = _nothing,
        on_down: Callable[[str], None] = _nothing,
        max_in_flight: int = 256,
    ) -> None:
        self._parameters = parameters
        self._name = name
        self._on_up = on_up
        self._on_down = on_down
        self._room = threading.BoundedSemaphore(max_in_flight)
        self._loop = IOLoop()
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)
        # Shared; owned by the condition's lock, written by the I/O thread.
        self._changed = threading.Condition()
        self._up = False
        self._ended = False
        self._problem = f"the broker {parameters.address} was not connected to yet"
        self._refused = False
        self._posted: list[Publication] = []
        # Everything below is the I/O thread's alone.
        self._consumers = Consumers(parameters, on_ready=self._ready, on_broken=self._rebuild)
        self._publisher = Publisher(parameters, on_idle=self._close_if_drained)
        self._connection: _Connection | None = None
        self._generation = 0
        self._verdict: tuple[str, bool] | None = None
        self._delay_s = RECONNECT_FIRST_S
        self._stopping = False

    # --- for every thread -------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether all is declared and consumed at this moment."""
        return self._up

    def start(self) -> None:
        """Begin to connect, and go on for ever."""
        self._call(self._connect)
        self._thread.start()

    def wait_until_connected(self, timeout_s: float) -> None:
        """Return when all is declared and consumed.

        BrokerUnavailable with the last problem after `timeout_s`; BrokerRefused at once when waiting cannot help.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._up or self._refused or self._ended, timeout_s)
            if not self._up:
                raise (BrokerRefused if self._refused else BrokerUnavailable)(self._problem)

    def declare(self, topology: Topology) -> None:
        """Declare this now and on each later connection, before anything is consumed."""
        self._call(partial(self._consumers.declare, topology))

    def consume(self, queue: str, callback: Callable[[Delivery], None], prefetch: int) -> None:
        """Consume a queue now and on each later connection, with at most `prefetch` deliveries unacknowledged.

        A `prefetch` of 0 is for a queue that goes with this connection: all comes at once, and is not acknowledged.
        """
        self._call(partial(self._consumers.consume, queue, callback, prefetch))

    def pause(self, queue: str) -> None:
        """Take no more from a queue; what was under way to us goes back to it."""
        self._call(partial(self._consumers.want, queue, False))

    def resume(self, queue: str) -> None:
        """Take from a queue again. Not paused is fine."""
        self._call(partial(self._consumers.want, queue, True))

    def ack(self, delivery: Delivery) -> None:
        """It is safe with us. After its connection was lost this does nothing: the broker delivers it again."""
        self._call(partial(self._consumers.settle, delivery, lambda channel: channel.basic_ack(delivery.tag)))

    def nack(self, delivery: Delivery, *, requeue: bool) -> None:
        """It is not with us: back to the queue, or thrown away."""
        self._call(
            partial(self._consumers.settle, delivery, lambda channel: channel.basic_nack(delivery.tag, requeue=requeue))
        )

    def publish(
        self,
        exchange: str,
        key: str,
        body: bytes,
        properties: Properties,
        *,
        mandatory: bool = True,
        timeout_s: float = 10.0,
    ) -> PublishOutcome:
        """Publish, and wait for the broker's word on it.

        Raises BrokerUnavailable at once without a connection, when the connection is lost meanwhile, or after
        `timeout_s`: then nobody knows whether the broker has it. Not to be called from a callback.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("publish() waits for the I/O thread and so cannot be called on it")
        self._must_run()
        if not self._room.acquire(timeout=timeout_s):
            raise BrokerUnavailable(self._silence(key, timeout_s))
        publication = Publication(exchange, key, body, properties, mandatory)
        publication.outcome.add_done_callback(lambda _: self._room.release())
        self._call(partial(self._publish, publication))
        try:
            return publication.outcome.result(timeout_s)
        except TimeoutError:
            publication.outcome.cancel()
            raise BrokerUnavailable(self._silence(key, timeout_s)) from None

    def post(self, exchange: str, key: str, body: bytes, properties: Properties) -> None:
        """Publish, in order with the rest, what may get lost: it waits for nothing.

        Sent within POSTED_S, together with what else was posted by then: to wake the I/O thread for each would keep the
        work that is told of from the interpreter. Not sent at all without a connection, while the broker takes no
        messages, or with too many under way.
        """
        if self._ended or not self._up or self._publisher.blocked or not self._room.acquire(blocking=False):
            return
        publication = Publication(exchange, key, body, properties, mandatory=False)
        publication.outcome.add_done_callback(lambda _: self._room.release())
        with self._changed:
            self._posted.append(publication)
            first = len(self._posted) == 1
        if first:
            self._call(self._publish_soon)

    def browse(
        self,
        queue: str,
        *,
        drop: Callable[[Delivery], bool] = lambda _: False,
        limit: int = 1000,
        timeout_s: float = 30.0,
    ) -> list[Delivery]:
        """The first messages of a queue, in order; all but those for which `drop` is true stay in it."""
        self._must_run()
        found: Future[list[Delivery]] = Future()
        self._call(partial(self._browse, queue, drop, limit, found))
        try:
            return found.result(timeout_s)
        except TimeoutError:
            found.cancel()
            raise BrokerUnavailable(
                f"the broker {self._parameters.address} did not show the queue {queue!r} within {timeout_s:.0f} s"
            ) from None

    def stop(self, *, drain_s: float = 5.0) -> None:
        """Stop consuming, wait up to `drain_s` for confirms, close. What is unacknowledged goes back to its queue."""
        if self._thread.ident is None:
            self._loop.close()
            return
        self._call(partial(self._begin_stop, drain_s))
        self._thread.join()

    def _call(self, work: Callable[[], None]) -> None:
        self._loop.add_callback_threadsafe(work)

    def _must_run(self) -> None:
        if self._ended:
            raise BrokerUnavailable(f"the connection to the broker {self._parameters.address} was closed by us")

    def _silence(self, key: str, timeout_s: float) -> str:
        blocked = self._publisher.blocked
        why = f": it takes no messages now ({blocked}), free memory or disk there" if blocked else ""
        return f"the broker {self._parameters.address} did not confirm a message for {key!r} in {timeout_s:.1f} s{why}"

    # --- the I/O thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended:
            try:
                self._loop.start()
            except Exception as error:
                # Not foreseen, in pika or here; the state of the connection is unknown, so it is built anew.
                # On the way out it is pika's: 1.4 fails an assertion when a connection is closed while it logs in.
                level = logging.DEBUG if self._stopping else logging.ERROR
                log.log(level, "error on the connection to %s", self._parameters.address, exc_info=True)
                self._loop.call_later(RECONNECT_FIRST_S, partial(self._abandon, repr(error)))
        self._loop.close()

    def _connect(self) -> None:
        if self._stopping:
            return
        self._generation += 1
        self._verdict = None
        try:
            parameters = pika_parameters(self._parameters, self._name)
        except OSError as error:
            self._lost(f"ca_file {self._parameters.ca_file} cannot be used: {error}", refused=True)
            return
        self._connection = _Connection(
            parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_closed,
            on_close_callback=self._on_closed,
            custom_ioloop=self._loop,
        )

    def _on_open(self, connection: Any) -> None:
        self._publisher.open(connection)
        self._consumers.open(connection, self._generation)

    def _ready(self) -> None:
        log.info("connected to %s as %s", self._parameters.address, self._parameters.user)
        self._loop.call_later(RECONNECT_MOST_S, partial(self._is_steady, self._generation))
        tell(self._on_up)
        with self._changed:
            self._up, self._refused = True, False
            self._changed.notify_all()

    def _is_steady(self, generation: int) -> None:
        """Only a connection that lasts resets the delay, or one that breaks as soon as it is up would be hammered."""
        if generation == self._generation and self._up:
            self._delay_s = RECONNECT_FIRST_S

    def _rebuild(self, reason: str, refused: bool) -> None:
        self._verdict = self._verdict or (reason, refused)
        self._close()

    def _close(self) -> None:
        connection = self._connection
        if connection is not None and not (connection.is_closing or connection.is_closed):
            connection.close()
            self._loop.call_later(CLOSE_S, partial(self._abort, connection))

    def _abort(self, connection: _Connection) -> None:
        if connection is self._connection and not connection.is_closed:
            connection.abort("the broker did not answer")

    def _abandon(self, reason: str) -> None:
        if self._connection is None or self._connection.is_closed:
            self._lost(reason, refused=False)
        else:
            self._connection.abort(reason)

    def _on_closed(self, _: Any, error: BaseException | str) -> None:
        reason, refused = self._verdict or (sentence(error, self._parameters), is_refusal(error))
        self._lost(reason, refused=refused)

    def _lost(self, reason: str, *, refused: bool) -> None:
        """The one way a connection, or an attempt at one, ends."""
        self._connection = None
        with self._changed:
            was_up, self._up = self._up, False
            news = was_up or reason != self._problem
            self._problem, self._refused, self._ended = reason, refused, self._stopping
            self._changed.notify_all()
        self._consumers.close()
        self._publisher.close(reason)
        if was_up:
            tell(partial(self._on_down, reason))
        if self._stopping:
            self._loop.stop()
            return
        log.log(logging.WARNING if news else logging.DEBUG, "%s; trying again in %.1f s", reason, self._delay_s)
        self._loop.call_later(self._delay_s, self._connect)
        self._delay_s = min(2 * self._delay_s, RECONNECT_MOST_S)

    def _begin_stop(self, drain_s: float) -> None:
        if self._stopping:
            return
        self._publish_posted()
        self._stopping = True
        if self._connection is None:
            self._lost("the connection to the broker was closed by us", refused=False)
            return
        self._consumers.stop()
        self._loop.call_later(drain_s, self._close)
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._stopping and self._publisher.idle:
            self._close()

    def _publish_soon(self) -> None:
        self._loop.call_later(POSTED_S, self._publish_posted)

    def _publish_posted(self) -> None:
        with self._changed:
            posted, self._posted = self._posted, []
        for publication in posted:
            self._publish_one(publication)

    def _publish(self, publication: Publication) -> None:
        self._publish_posted()  # what was said before comes before
        self._publish_one(publication)

    def _publish_one(self, publication: Publication) -> None:
        if self._stopping:
            fail(publication, "the connection to the broker is being closed by us")
        elif self._connection is None or not self._connection.is_open:
            fail(publication, self._problem)
        else:
            self._publisher.publish(publication)

    def _browse(self, queue: str, drop: Callable[[Delivery], bool], limit: int, found: Future[list[Delivery]]) -> None:
        if self._connection is not None and self._connection.is_open:
            self._connection.channel(on_open_callback=Browse(queue, drop, limit, found, self._generation).run)
        elif found.set_running_or_notify_cancel():
            found.set_exception(BrokerUnavailable(self._problem))
