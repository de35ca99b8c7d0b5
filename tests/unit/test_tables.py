from __future__ import annotations

from esxprov.tables import facts, printable, table


def test_numbers_stand_to_the_right_and_text_to_the_left() -> None:
    assert table([{"name": "a", "ram_mb": 5}, {"name": "bcd", "ram_mb": None}], ["name", "ram_mb"]).splitlines() == [
        "name  ram mb",
        "----  ------",
        "a          5",
        "bcd        -",
    ]


def test_a_column_without_any_value_is_text() -> None:
    assert table([{"hostname": None}], ["hostname"]).splitlines()[-1] == "-"


def test_times_are_shown_to_the_second() -> None:
    assert "2026-11-22 05:41:07\n" in table([{"at": "2026-11-22T05:41:07.123456Z"}], ["at"]) + "\n"


def test_what_a_stranger_sent_cannot_touch_the_terminal() -> None:
    assert printable("a\x1b[31m\tb\nc") == "a\\x1b[31m\\tb\nc"
    assert "\x1b" not in table([{"reason": "\x1b]0;owned\x07\nx"}], ["reason"])
    assert len(table([{"reason": "two\nlines"}], ["reason"]).splitlines()) == 3


def test_facts_are_aligned_and_what_is_unknown_is_left_out() -> None:
    assert facts({"a": 1, "none": None, "long_name": "x"}).splitlines() == ["a          1", "long name  x"]
