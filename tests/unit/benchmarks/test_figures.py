"""What the figures are made of: ratios of sums, and a plain word for what was not reached."""

from __future__ import annotations

from benchmarks.placement.contest import BOUND, NOVA, OURS, Contest, Round
from benchmarks.placement.replay import Outcome
from benchmarks.targets import at_least, at_most, summary


def outcome(refused: int, refused_ram_mb: int) -> Outcome:
    return Outcome(100 - refused, refused, 1000 - refused_ram_mb, refused_ram_mb, None)


def contest(*seeds: dict[str, Outcome]) -> Contest:
    return Contest([Round(outcomes, 0) for outcomes in seeds])


def test_ratios_are_those_of_sums_over_the_seeds() -> None:
    found = contest(
        {"slots": outcome(40, 400), NOVA: outcome(10, 100), OURS: outcome(2, 20), BOUND: outcome(1, 0)},
        {"slots": outcome(20, 200), NOVA: outcome(1, 10), OURS: outcome(1, 10), BOUND: outcome(1, 10)},
    )
    assert found.closed == (110 - 30) / (110 - 10)
    assert found.closed_by_seed == [0.8]
    assert found.factor("slots", OURS) == 60 / 3
    assert found.factor_share("slots") == (60 / 3) / (60 / 2)


def test_no_factor_is_claimed_where_the_bound_refuses_nothing() -> None:
    found = contest({"slots": outcome(9, 90), NOVA: outcome(1, 10), OURS: outcome(1, 10), BOUND: outcome(0, 0)})
    assert found.factor("slots", BOUND) is None
    assert found.factor_share("slots") is None


def test_a_target_that_is_missed_is_said_to_be() -> None:
    table = summary([at_least("a", 0.9, 0.89), at_most("b", 3, 3.0), at_most("c", 0, None)]).splitlines()
    assert [line.split("  ")[-1].strip() for line in table[2:]] == ["NOT REACHED", "yes", "not measured"]
