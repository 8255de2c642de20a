"""The rest takes as long as its share did so far."""

from __future__ import annotations

from pipeline.timeleft import TimeLeft


def _told(*places: tuple[float, float]) -> list[float | None]:
    """What is said when these shares are told at these seconds."""
    clock = iter([second for second, _ in places])
    left = TimeLeft(lambda: next(clock))
    return [left.left_s(done) for _, done in places]


def test_the_rest_goes_on_at_the_pace_so_far() -> None:
    """Promise: seconds left are those of the share that was seen, and nothing is said before there is a pace."""
    assert _told((100, 0.0), (101, 0.1), (110, 0.25), (130, 0.75), (140, 1.0)) == [None, 9.0, 30.0, 10.0, 0.0]


def test_what_a_checkpoint_remembers_sets_no_pace() -> None:
    """Promise: epochs of an interrupted training, told at once, took no time here and are no ground for a forecast."""
    assert _told((5.0, 0.25), (5.001, 0.5), (25.001, 0.75)) == [None, None, 20.0]


def test_no_pace_where_nothing_moves() -> None:
    """Promise: a share that stays, or falls, is no division by zero and no negative time."""
    assert _told((0, 0.5), (10, 0.5), (20, 0.4)) == [None, None, None]


def test_shares_that_are_not_even_set_no_pace() -> None:
    """Promise: where equal shares do not take equal time, no forecast is better than a wrong one."""
    clock = iter([0.0, 10.0, 20.0])
    left = TimeLeft(lambda: next(clock), even=False)
    assert [left.left_s(done) for done in (0.1, 0.5, 0.9)] == [None, None, None]
