"""Do a list of actions, or take them back; and say of each what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from esxprov.errors import ConfigurationError, DependencyUnavailable
from esxprov.install.actions import Action


@dataclass(frozen=True, slots=True)
class Outcome:
    """`sign`: + made, - taken away, = as it was, ! impossible, for the reason that `problem` gives."""

    sign: str
    what: str
    problem: Exception | None = None

    def __str__(self) -> str:
        return f"{self.sign} {self.what}{f': {self.problem}' if self.problem else ''}"


def install(actions: Iterable[Action], *, dry_run: bool = False) -> Iterator[Outcome]:
    """In order, up to the first that is impossible. Can be repeated, whatever was done before.

    With `dry_run` nothing is changed, and what is impossible ends nothing.
    """

    def do(action: Action) -> str:
        if action.is_done():
            return "="
        if not dry_run:
            action.do()
        return "+"

    return _each(actions, do, stops=not dry_run)


def uninstall(actions: Iterable[Action], *, dry_run: bool = False) -> Iterator[Outcome]:
    """In the reverse order, up to the first that is impossible; what is not ours stays. `dry_run` as above."""

    def undo(action: Action) -> str:
        if not action.is_ours():
            return "="
        if not dry_run:
            action.undo()
        return "-"

    return _each(reversed(list(actions)), undo, stops=not dry_run)


def _each(actions: Iterable[Action], work: Callable[[Action], str], *, stops: bool) -> Iterator[Outcome]:
    for action in actions:
        try:
            outcome = Outcome(work(action), action.what)
        except (ConfigurationError, DependencyUnavailable, OSError) as error:
            outcome = Outcome("!", action.what, error)
        yield outcome
        if outcome.problem and stops:
            return
