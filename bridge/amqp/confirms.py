"""Which published message is answered by which confirm: the bookkeeping of one channel in confirm mode."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from bridge.message import BrokerUnavailable, Properties, PublishOutcome


@dataclass(frozen=True, slots=True, eq=False)
class Publication:
    """One message on its way, and where its publisher waits for the outcome.

    Whoever gave up waiting has cancelled `outcome`; `start()` tells whether to send it at all.
    """

    exchange: str
    key: str
    body: bytes
    properties: Properties
    mandatory: bool
    outcome: Future[PublishOutcome] = field(default_factory=Future)

    def start(self) -> bool:
        """True if it is still wanted; from now on it cannot be cancelled."""
        return self.outcome.set_running_or_notify_cancel()


class Confirms:
    """The messages sent on one channel and not yet answered. Owned by the I/O thread.

    The broker numbers what it confirms: the n-th message of a channel has the tag n.
    """

    def __init__(self) -> None:
        self._sent: dict[int, Publication] = {}
        self._returned: dict[int, str] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._sent)

    def sent(self, publication: Publication) -> None:
        """To be called once for each message, in the order they are sent."""
        self._last += 1
        self._sent[self._last] = publication

    def came_back(self, *, exchange: str, key: str, message_id: str | None, reason: str) -> None:
        """A mandatory message found no queue. Its confirm follows, so it is only remembered here.

        A return bears no tag. Of several messages that look the same the oldest is meant: they are answered in order.
        """
        for tag, publication in self._sent.items():
            same = publication.exchange == exchange and publication.key == key
            if same and publication.properties.message_id == message_id and tag not in self._returned:
                self._returned[tag] = reason
                return

    def settle(self, tag: int, *, multiple: bool, taken: bool) -> None:
        """The broker answered `tag`, or with `multiple` all up to it: `taken`, or refused by a queue."""
        tags = [sent for sent in self._sent if sent <= tag] if multiple else [tag]
        for settled in tags:
            publication = self._sent.pop(settled, None)
            reason = self._returned.pop(settled, "")
            if publication is None:
                continue
            if taken:
                publication.outcome.set_result(PublishOutcome(confirmed=not reason, reason=reason))
            else:
                publication.outcome.set_exception(
                    BrokerUnavailable(f"the broker refused a message for {publication.key!r}: is the queue full?")
                )

    def close(self, reason: str, *, missing_exchange: str | None = None) -> None:
        """The channel is gone: nothing sent on it will be answered.

        What went to `missing_exchange` is known to be in no queue; of the rest nobody knows.
        """
        for tag, publication in self._sent.items():
            if publication.exchange == missing_exchange:
                publication.outcome.set_result(PublishOutcome(confirmed=False, reason=reason))
            elif tag in self._returned:
                publication.outcome.set_result(PublishOutcome(confirmed=False, reason=self._returned[tag]))
            else:
                publication.outcome.set_exception(BrokerUnavailable(reason))
        self._sent.clear()
        self._returned.clear()
