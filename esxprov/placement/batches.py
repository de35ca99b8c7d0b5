"""Group commit: what several threads ask at the same time is answered in one go."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batches(Generic[Q, A]):
    """Whoever comes first leads: it answers what waits, itself included, at most `most` at once. Who comes meanwhile
    waits for its answer, or to lead the next batch.

    `work` answers questions in their order; an answer that is an exception is raised for its question only. What `work`
    raises is raised for all of the batch.
    """

    def __init__(self, work: Callable[[Sequence[Q]], Sequence[A | Exception]], most: int) -> None:
        self._work = work
        self._most = most
        self._lock = threading.Lock()  # guards the two below
        self._queue: deque[_Waiting[Q, A]] = deque()
        self._led = False

    def ask(self, question: Q) -> A:
        """Any thread: the answer, or the exception in its place."""
        one = _Waiting[Q, A](question)
        with self._lock:
            self._queue.append(one)
            if not self._led:
                self._led = one.leads = True
                one.woken.set()
        one.woken.wait()
        if one.leads:
            # Whoever leads is the first in the queue, so one batch has its own answer.
            self._answer_what_waits()
            self._hand_over()
        return one.answer.result()

    def _answer_what_waits(self) -> None:
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
        try:
            answers = self._work([one.question for one in batch])
            for one, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Exception):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)
        except BaseException as error:
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
        for one in batch:
            one.woken.set()

    def _hand_over(self) -> None:
        with self._lock:
            if self._queue:
                self._queue[0].leads = True
                self._queue[0].woken.set()
            else:
                self._led = False


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Q, A]):
    """`leads` is written before `woken` is set, by whoever hands over."""

    question: Q
    answer: Future[A] = field(default_factory=Future)
    woken: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
