from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from esxprov.placement.batches import Batches


class Work:
    """Answers a number with its double; the first batch waits until `waiting` more questions are there."""

    def __init__(self, waiting: int, most: int = 64) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[int] = []
        self.asked = Batches[int, int](self.answer, most)
        self._waiting = waiting

    def answer(self, questions: Sequence[int]) -> list[int | Exception]:
        while not self.batches and len(self.asked._queue) < self._waiting:
            threading.Event().wait(0.001)
        self.batches.append(list(questions))
        self.threads.append(threading.get_ident())
        if 13 in questions:
            raise OSError("the whole batch fails")
        return [ValueError(f"{question} is odd") if question % 2 else 2 * question for question in questions]


def answers(work: Work, questions: Sequence[int]) -> list[int | Exception]:
    def ask(question: int) -> int | Exception:
        try:
            return work.asked.ask(question)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(questions)) as threads:
        return list(threads.map(ask, questions))


def test_who_asks_alone_is_answered_by_itself() -> None:
    work = Work(waiting=0)
    assert work.asked.ask(4) == 8
    assert work.threads == [threading.get_ident()]


def test_who_comes_while_a_batch_is_answered_is_in_the_next_one() -> None:
    work = Work(waiting=9)
    assert answers(work, range(0, 20, 2)) == list(range(0, 40, 4))
    assert [len(batch) for batch in work.batches] == [1, 9]


def test_a_batch_is_no_larger_than_it_may_be() -> None:
    work = Work(waiting=9, most=4)
    assert answers(work, range(0, 20, 2)) == list(range(0, 40, 4))
    assert [len(batch) for batch in work.batches] == [1, 4, 4, 1]


def test_nobody_answers_for_others_when_its_own_answer_is_there() -> None:
    work = Work(waiting=9, most=3)
    answers(work, range(0, 20, 2))
    assert len(set(work.threads)) == len(work.batches)


def test_an_exception_in_the_place_of_an_answer_is_raised_for_its_own_question() -> None:
    work = Work(waiting=2)
    assert [type(answer) for answer in answers(work, [2, 3, 4])] == [int, ValueError, int]


def test_a_batch_that_fails_fails_for_all_of_it_and_for_no_other() -> None:
    work = Work(waiting=0)
    with pytest.raises(OSError, match="the whole batch"):
        work.asked.ask(13)
    assert work.asked.ask(2) == 4


def test_many_threads_are_all_answered() -> None:
    work = Work(waiting=0, most=5)
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(work.asked.ask, range(0, 2000, 2))) == list(range(0, 4000, 4))
