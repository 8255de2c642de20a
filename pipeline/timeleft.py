"""How long something takes yet, at the pace at which it got where it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, final

_FIRST_S: Final = 1.0


@final
class TimeLeft:
    """Told of shares of the work, says what the rest takes.

    The pace counts from one second after the first share: an interrupted training that goes on tells in that second of
    all that was done before, which took no time here.

    Args:
        clock: Seconds.
        even: Whether equal shares take equal time at all; else nothing is told.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, even: bool = True) -> None:
        self._clock, self._even = clock, even
        self._begun_s: float | None = None
        self._since = (0.0, 0.0)

    def left_s(self, done: float) -> float | None:
        """Seconds until all is done; None as long as there is no pace to tell from.

        Args:
            done: From 0 to 1.
        """
        now = self._clock()
        if self._begun_s is None:
            self._begun_s = now
        if now - self._begun_s < _FIRST_S:
            self._since = now, done
        since_s, before = self._since
        if not self._even or now - since_s < _FIRST_S or done <= before:
            return None
        return round((now - since_s) * (1 - done) / (done - before), 1)
