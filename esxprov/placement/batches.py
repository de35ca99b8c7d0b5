"""Group commit: what several threads ask at the same time is answered in one go."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

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
        self._queue: deque[_Waiting] = deque()
        self._led = False

    def ask(self, question: Q) -> A:
        """Any thread: the answer, or the exception in its place."""
        one = _Waiting(question)
        with self._lock:
            self._queue.append(one)
            one.leads = not self._led
            self._led = True
        if not one.leads:
            one.woken.acquire()
        if one.leads:
            # Whoever leads is the first in the queue, so one batch has its own answer.
            self._answer_what_waits()
            self._hand_over()
        if isinstance(one.answer, BaseException):
            raise one.answer
        return cast(A, one.answer)

    def _answer_what_waits(self) -> None:
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
        try:
            answers: Sequence[A | BaseException] = self._work([one.question for one in batch])
        except BaseException as error:
            answers = [error] * len(batch)
        for one, answer in zip(batch, answers, strict=True):
            one.answer = answer
        for one in batch:
            if not one.leads:
                one.woken.release()

    def _hand_over(self) -> None:
        with self._lock:
            if self._queue:
                self._queue[0].leads = True
                self._queue[0].woken.release()
            else:
                self._led = False


class _Waiting:
    """`answer` and `leads` are written before who waits for `woken` is let go. A plain lock, because nothing wakes a
    thread for less, and every question has one.
    """

    __slots__ = ("answer", "leads", "question", "woken")

    def __init__(self, question: Any) -> None:
        self.question = question
        self.answer: Any = None
        self.leads = False
        self.woken = threading.Lock()
        self.woken.acquire()
