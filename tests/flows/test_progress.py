"""The time left on the progress line, from its first line on."""

import pytest

from synthmill.flows.terminal.progress import Pace, Reporter
from synthmill.schemas.progress import Progress


def at(rows: int, sent: int, in_flight: int = 4) -> Progress:
    return Progress(rows=rows, in_flight=in_flight, spent={"student": {"sent": sent}} if sent else {})


def test_loading_a_model_is_no_part_of_the_pace_and_calls_count_before_rows_end() -> None:
    pace = Pace(rows=12, calls=48, started=0.0)
    pace.note(Progress(), 5.0)  # workers start
    pace.note(at(0, 0), 16.0)
    assert pace.began == 16.0 and pace.left_s() is None
    pace.note(at(1, 8), 20.0)
    assert pace.left_s() == pytest.approx(20.0)  # 8 of 48 calls in 4 seconds, though only one row of 12 is there


def test_where_few_of_the_possible_calls_are_needed_rows_count() -> None:
    pace = Pace(rows=10, calls=300, started=0.0)
    pace.note(at(0, 0), 1.0)
    pace.note(at(5, 20), 11.0)
    assert pace.left_s() == pytest.approx(10.0)


def test_what_was_answered_by_an_earlier_run_is_forgotten_after_a_minute() -> None:
    pace = Pace(rows=100, calls=100, started=0.0)
    pace.note(at(0, 0), 1.0)
    pace.note(at(50, 0), 2.0)  # at once, from the store
    for second in range(3, 100):
        pace.note(at(50 + second // 4, second // 4), float(second))
    assert pace.left_s() == pytest.approx(4 * (50 - 99 // 4), rel=0.1)


def test_a_pause_leaves_the_last_known_pace() -> None:
    pace = Pace(rows=10, calls=10, started=0.0)
    for second, rows in ((0, 0), (10, 1), *((second, 1) for second in range(20, 401))):
        pace.note(at(rows, rows), float(second))
    assert pace.left_s() == pytest.approx(9 * 400)


def test_a_stage_without_calls_counts_from_its_start() -> None:
    pace = Pace(rows=12, calls=0, started=3.0)
    pace.note(Progress(rows=3), 5.0)
    assert pace.left_s() == pytest.approx(6.0)
    report = Reporter("words", 12, quiet=True)
    report(Progress(rows=12))
    assert " left" not in report.line() and report.line().endswith(" 0 s")
