"""What a check says, and how checks are run: side by side, each with its time, and never ending in a traceback."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from bridge.message import BrokerUnavailable
from esxprov.errors import ConfigurationError, DependencyUnavailable, ProvisioningError

log = logging.getLogger(__name__)

WITHIN_S = 30.0
"""How long a section may take: what answers later is as good as silent, and a person waits."""

_EXPECTED = (ConfigurationError, DependencyUnavailable, ProvisioningError, BrokerUnavailable, OSError)


class Sign(StrEnum):
    """`warn` is worth a look and stops nothing; `skipped` could not be looked at because of another finding."""

    OK = "ok"
    WARN = "warn"
    WRONG = "wrong"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `cure` is the command to run or the line to change, "" if there is nothing to do."""

    check: str
    sign: Sign
    text: str
    cure: str = ""


def ok(check: str, text: str) -> Finding:
    return Finding(check, Sign.OK, text)


def warn(check: str, text: str, cure: str) -> Finding:
    return Finding(check, Sign.WARN, text, cure)


def wrong(check: str, text: str, cure: str) -> Finding:
    return Finding(check, Sign.WRONG, text, cure)


@dataclass(frozen=True, slots=True)
class Section:
    """Checks that one thread does one after the other, because each needs what those before it have found.

    `look` yields at least one finding of each of `checks`; where it ends early, the rest is skipped.
    """

    checks: tuple[str, ...]
    look: Callable[[], Iterator[Finding]]


@dataclass(slots=True)
class _Running:
    """`found` is appended to by its thread alone; list.append is atomic, so it may be read meanwhile."""

    section: Section
    found: list[Finding] = field(default_factory=list)

    def run(self) -> None:
        try:
            for finding in self.section.look():
                self.found.append(finding)
        except _EXPECTED as error:
            self.found.append(wrong(self._at_work(), _text(error), ""))
        except Exception as error:
            log.debug("the check itself failed", exc_info=True)
            cure = "please report it with what 'esxprov -v doctor' prints"
            self.found.append(wrong(self._at_work(), f"the check itself failed: {type(error).__name__}: {error}", cure))

    def result(self) -> list[Finding]:
        """All findings in the order of the checks; what was not looked at is skipped."""
        found = list(self.found)
        bad = [one for one in found if one.sign is Sign.WRONG]
        because = (
            f"not looked at, because {bad[-1].check} is wrong" if bad else "not looked at: what it needs is not known"
        )
        seen = {one.check for one in found}
        found += [Finding(check, Sign.SKIPPED, because) for check in self.section.checks if check not in seen]
        return sorted(found, key=lambda one: self.section.checks.index(one.check))

    def late(self, within_s: float) -> None:
        self.found.append(wrong(self._at_work(), f"no answer within {within_s:g} s", ""))

    def _at_work(self) -> str:
        seen = {one.check for one in self.found}
        return next((check for check in self.section.checks if check not in seen), self.section.checks[-1])


def examine(sections: Sequence[Section], *, within_s: float = WITHIN_S) -> list[Finding]:
    """The findings of all sections in their order."""
    running = [_Running(section) for section in sections]
    # Daemons: one that hangs must not keep the command from ending.
    threads = [threading.Thread(target=each.run, daemon=True) for each in running]
    for thread in threads:
        thread.start()
    give_up_at = time.monotonic() + within_s
    for each, thread in zip(running, threads, strict=True):
        thread.join(max(0.0, give_up_at - time.monotonic()))
        if thread.is_alive():
            each.late(within_s)
    return [finding for each in running for finding in each.result()]


def _text(error: BaseException) -> str:
    return error.message if isinstance(error, ProvisioningError) else str(error)
