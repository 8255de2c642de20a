"""Shows what happens during a run: live in a terminal, line by line in a log, or as JSON lines."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

import click

from pipeline.events import Event, Notice, StageFinished, StageProgress, StageStarted

if TYPE_CHECKING:
    from rich.status import Status


@final
class ConsoleObserver(AbstractContextManager["ConsoleObserver"]):
    """Prints one line a finished stage to stderr; in a terminal also a spinner with what the current one does."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._stack = ExitStack()
        self._status: Status | None = None

    def __enter__(self) -> ConsoleObserver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._clear()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        if isinstance(event, StageStarted):
            self._start(event)
        elif isinstance(event, StageProgress):
            self._progress(event)
        elif isinstance(event, StageFinished):
            self._clear()
            click.echo(finished_line(event), err=True)
        else:
            self._say(f"  note: {event.text}")

    def _start(self, event: StageStarted) -> None:
        if self._live:
            from rich.console import Console

            self._status = self._stack.enter_context(Console(stderr=True).status(f"{event.stage}: {event.title}"))

    def _progress(self, event: StageProgress) -> None:
        figures = "  ".join(f"{name} {value:.4g}" for name, value in event.values.items())
        if self._status is not None:
            self._status.update(f"{event.stage} {event.done:4.0%}  {event.text}  {figures}")
        else:
            click.echo(f"    {event.stage} {event.done:4.0%}  {event.text}  {figures}".rstrip(), err=True)

    def _say(self, text: str) -> None:
        click.echo(text, err=True)

    def _clear(self) -> None:
        self._stack.close()
        self._status = None


def json_observer(event: Event) -> None:
    """One JSON line an event, on stderr."""
    click.echo(json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)}, sort_keys=True, default=dict), err=True)


def finished_line(event: StageFinished) -> str:
    """A finished stage in one line."""
    took = "reused" if event.reused else f"{event.wall_s:.1f} s"
    figures = "  ".join(_figures(event.results))
    return f"{event.stage:<18} {took:>8}  {figures or event.title}"


def _figures(results: Any) -> list[str]:
    formats = {
        "accuracy": "accuracy {:.4f}",
        "parameters": "{:,} parameters",
        "macs": "{:,} MACs",
        "size_bytes": "{:,} bytes",
        "output_snr_db": "SNR {:.1f} dB",
    }
    return [text.format(results[name]) for name, text in formats.items() if results.get(name) is not None]


__all__ = ["ConsoleObserver", "Notice", "finished_line", "json_observer"]
