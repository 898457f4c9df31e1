"""What is due when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coffer_backup_scheduler.due import Rhythm, after, due, pause

HOURLY, DAILY = Rhythm("hourly", 3600.0), Rhythm("daily", 86400.0)
BOTH = (HOURLY, DAILY)


def test_what_has_never_run_is_due() -> None:
    assert due(BOTH, {}, 0.0) == ["daily", "hourly"]
    assert pause(BOTH, {}, 0.0, 60.0) == 0.0


def test_the_longest_overdue_comes_first() -> None:
    assert due(BOTH, {"hourly": 50.0, "daily": 40.0}, 100.0) == ["daily", "hourly"]
    assert due(BOTH, {"hourly": 40.0, "daily": 50.0}, 100.0) == ["hourly", "daily"]


def test_nothing_is_due_before_its_time() -> None:
    assert due(BOTH, {"hourly": 100.0, "daily": 100.1}, 100.0) == ["hourly"]


def test_what_failed_is_tried_sooner_but_never_more_often_than_it_is_due() -> None:
    assert after(HOURLY, 10.0, worked=True) == 3610.0
    assert after(HOURLY, 10.0, worked=False) == 40.0
    assert after(Rhythm("often", 5.0), 10.0, worked=False) == 15.0


@given(st.dictionaries(st.sampled_from(["hourly", "daily"]), st.floats(-1e6, 1e6)), st.floats(0, 1e6))
def test_after_the_pause_something_is_due_or_the_longest_pause_is_over(times: dict[str, float], now: float) -> None:
    wait = pause(BOTH, times, now, 60.0)
    assert 0.0 <= wait <= 60.0
    assert wait == 60.0 or due(BOTH, times, now + wait + 1e-6)
