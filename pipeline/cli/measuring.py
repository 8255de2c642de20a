"""Shows what campaigns do, several at a time: a bar for each device in a terminal, else a line for each block."""

from __future__ import annotations

import sys
import threading
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

from pipeline.cli.saying import say, say_json, telling_logs

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from pipeline.benchmarking.request import Progress


@final
class MeasuringObserver(AbstractContextManager["MeasuringObserver"]):
    """Told by the threads of several campaigns what they do; writes to stderr only.

    Args:
        quiet: Show nothing.
        as_json: Write a JSON line for each step instead.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self._quiet, self._as_json = quiet, as_json
        self._lock = threading.Lock()
        self._said: dict[str, Any] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bars: Bars | None = None
        self._stack = ExitStack()

    def __enter__(self) -> MeasuringObserver:
        self._stack.enter_context(telling_logs(quiet=self._quiet, as_json=self._as_json))
        if sys.stderr.isatty() and not self._quiet and not self._as_json:
            from pipeline.cli.bars import progress

            self._bars = self._stack.enter_context(progress(shares=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def progress(self, device: str, at: Progress) -> None:
        """A process is about to start."""
        where = f"block {at.block + 1}: {at.engine}, {at.elapsed_s:.0f} of {at.budget_s:.0f} s"
        self._show(device, where, share=min(1.0, at.elapsed_s / at.budget_s), once=at.block)

    def note(self, device: str, text: str) -> None:
        """Something else goes on there."""
        self._show(device, text, share=None, once=text.partition(",")[0])

    def _show(self, device: str, text: str, *, share: float | None, once: object) -> None:
        with self._lock:
            if self._bars is not None:
                if device not in self._tasks:
                    self._tasks[device] = self._bars.add_task("", total=1.0)
                self._bars.update(self._tasks[device], description=f"{device}: {text}", completed=share)
            elif not self._quiet and self._said.get(device) != once:
                self._said[device] = once
                if self._as_json:
                    say_json("Measuring", device=device, text=text, done=share)
                else:
                    say(f"{device}: {text}")
