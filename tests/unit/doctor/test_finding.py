"""How checks are run: whatever one of them does, every check has an answer, in its order."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from esxprov.doctor.finding import Finding, Section, Sign, examine, ok, wrong
from esxprov.errors import DependencyUnavailable, ProvisioningError


def section(*findings: Finding | Exception) -> Section:
    """Checks a, b and c, which say that; an exception is raised."""

    def look() -> Iterator[Finding]:
        for finding in findings:
            if isinstance(finding, Exception):
                raise finding
            yield finding

    return Section(("a", "b", "c"), look)


def signs(found: list[Finding]) -> list[tuple[str, str]]:
    return [(one.check, one.sign.value) for one in found]


def test_checks_are_told_in_their_order_whatever_order_they_were_looked_at_in() -> None:
    found = examine([section(ok("b", "2"), ok("a", "1"), ok("c", "3"), ok("b", "4"))])
    assert [one.text for one in found] == ["1", "2", "4", "3"]


def test_after_a_wrong_one_the_rest_is_skipped_and_says_for_whose_sake() -> None:
    found = examine([section(ok("a", ""), wrong("b", "broken", "mend it"))])
    assert signs(found) == [("a", "ok"), ("b", "wrong"), ("c", "skipped")]
    assert found[-1].text == "not looked at, because b is wrong"


def test_what_is_silently_left_out_is_skipped() -> None:
    (*_, last) = examine([section(ok("a", ""), ok("b", ""))])
    assert (last.sign, last.text) == (Sign.SKIPPED, "not looked at: what it needs is not known")


def test_an_expected_failure_is_the_finding_of_the_check_at_work() -> None:
    text = "it is away"
    for error in (DependencyUnavailable(text), ProvisioningError("host_unavailable", text), OSError(text)):
        found = examine([section(ok("a", ""), error)])
        assert signs(found) == [("a", "ok"), ("b", "wrong"), ("c", "skipped")]
        assert found[1].text == text


def test_a_bug_in_a_check_is_a_finding_and_hides_no_other() -> None:
    found = examine([section(KeyError("x")), section(ok("a", ""), ok("b", ""), ok("c", ""))])
    assert signs(found)[:3] == [("a", "wrong"), ("b", "skipped"), ("c", "skipped")]
    assert "the check itself failed: KeyError: 'x'" in found[0].text
    assert [one.sign for one in found[3:]] == [Sign.OK] * 3


def test_a_check_that_does_not_end_is_wrong_and_the_others_are_told() -> None:
    end = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield ok("a", "")
        end.wait(30)

    found = examine([Section(("a", "b", "c"), hangs), section(ok("a", ""), ok("b", ""), ok("c", ""))], within_s=0.05)
    end.set()
    assert signs(found)[:3] == [("a", "ok"), ("b", "wrong"), ("c", "skipped")]
    assert found[1].text == "no answer within 0.05 s"
    assert [one.sign for one in found[3:]] == [Sign.OK] * 3
