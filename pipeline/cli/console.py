"""Shows what happens during a run: live in a terminal, line by line in a log, or as JSON lines."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Final, final

from pipeline.cli.saying import say, say_json
from pipeline.events import (
    CandidateDropped,
    Event,
    Notice,
    StageFinished,
    StageProgress,
    StageStarted,
    TrainingStep,
    TrialFinished,
    TrialStarted,
)
from pipeline.stages.base import WITHDRAWN

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


PATIENCE_S: Final = 2.0
_FURTHER: Final = 0.05  # share of a stage after which a log is told the same words again


@final
class ConsoleObserver(AbstractContextManager["ConsoleObserver"]):
    """Prints one line a finished stage to stderr; in a terminal also how far the current one is."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._stack = ExitStack()
        self._bar: tuple[Progress, TaskID] | None = None
        self._patience: threading.Timer | None = None
        self._said: tuple[str, float] | None = None

    def __enter__(self) -> ConsoleObserver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        if isinstance(event, StageStarted):
            self._start(event)
        elif isinstance(event, StageProgress):
            self._progress(event)
        elif isinstance(event, StageFinished):
            self._clear()
            say(finished_line(event))
        elif isinstance(event, CandidateDropped):
            self._clear()
            if not event.quiet:  # the stage that found nothing to gain has said so in its own line
                say(dropped_line(event))
        elif isinstance(event, TrialStarted):
            point = ", ".join(f"{key}={value}" for key, value in event.point.items())
            say(f"trial {event.number + 1} of {event.of}{_left(event.left_s)}: {point}")
        elif isinstance(event, TrialFinished):
            self._clear()
            say(f"trial {event.number + 1}: {event.outcome}")
        elif isinstance(event, Notice):
            say(f"  note: {event.text}")
        elif self._bar is not None:
            self._step(event)

    def _start(self, event: StageStarted) -> None:
        if not self._live:  # a log is told what takes long while it does, and nothing of what is over at once
            self._patience = threading.Timer(PATIENCE_S, say, [f"    {event.stage} ...  {event.title}"])
            self._patience.daemon = True
            self._patience.start()
        else:
            from pipeline.cli.bars import progress

            bar = self._stack.enter_context(progress(shares=True))
            self._bar = bar, bar.add_task(f"{event.stage}: {event.title}", total=1.0)

    def _progress(self, event: StageProgress) -> None:
        figures = _values(event.values)
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=event.done, description=f"{event.stage}  {event.text}  {figures}")
        elif not self._repeats(event, figures):
            self._be_patient_no_more()
            say(f"    {event.stage} {event.done:4.0%}  {event.text}{_left(event.left_s)}  {figures}".rstrip())

    def _repeats(self, event: StageProgress, figures: str) -> bool:
        """Whether a log learns nothing by this that the line before has not told it: the same words, hardly further."""
        text, done = f"{event.stage} {event.text}  {figures}", event.done
        if self._said is not None and self._said[0] == text and 0.0 <= done - self._said[1] < _FURTHER:
            return True
        self._said = text, done
        return False

    def _step(self, event: TrainingStep) -> None:
        assert self._bar is not None
        bar, task = self._bar
        text = f"{event.stage}  epoch {event.epoch}, step {event.step}/{event.steps}  {_values(event.values)}"
        bar.update(task, completed=event.done, description=text)

    def _be_patient_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _clear(self) -> None:
        self._be_patient_no_more()
        self._stack.close()
        self._bar = None


def _left(left_s: float | None) -> str:
    return f", {left_s:.0f} s left" if left_s is not None and left_s >= 1 else ""


def _values(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def json_observer(event: Event) -> None:
    """One JSON line an event, on stderr."""
    say_json(type(event).__name__, **dataclasses.asdict(event))


def finished_line(event: StageFinished) -> str:
    """A finished stage in one line."""
    took = "reused" if event.reused else f"{event.wall_s:.1f} s"
    figures = "nothing to gain here" if event.results.get(WITHDRAWN) else "  ".join(_figures(event.results))
    return f"{event.stage:<22} {took:>8}  {figures or event.title}"


def dropped_line(event: CandidateDropped) -> str:
    """A candidate that is not built, in one line: what happened, why, and how to have it."""
    return f"{event.name:<22} {'dropped':>8}  {event.what}: {event.why}; {event.fix}"


def _figures(results: Mapping[str, object]) -> list[str]:
    formats = {
        "accuracy": f"{results.get('metric', 'accuracy')} {{:.4f}}",
        "parameters": "{:,} parameters",
        "macs": "{:,} MACs",
        "size_bytes": "{:,} bytes",
        "output_snr_db": "SNR {:.1f} dB",
    }
    return [text.format(results[name]) for name, text in formats.items() if results.get(name) is not None]
