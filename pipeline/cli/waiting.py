"""Something that takes a while and tells no share: a spinner with the seconds, or in a log one line after two."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click

_PATIENCE_S: Final = 2.0


@contextmanager
def waiting(text: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Shows that work goes on, on stderr; gives a function that says what is done now.

    Args:
        text: What is done at first.
        quiet: Show nothing.
    """
    if quiet:
        yield lambda _text: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(text, total=None)
            yield lambda now: bar.update(task, description=now)
    else:
        with _patient(text) as say:
            yield say


@contextmanager
def _patient(text: str) -> Iterator[Callable[[str], None]]:
    """A line for each step that is not over after two seconds."""
    now, over, said = [text], threading.Event(), set[str]()
    since = [time.monotonic()]

    def watch() -> None:
        while not over.wait(0.25):
            if now[0] not in said and time.monotonic() - since[0] >= _PATIENCE_S:
                said.add(now[0])
                with contextlib.suppress(BrokenPipeError):
                    click.echo(f"{now[0]} ...", err=True)

    def say(step: str) -> None:
        now[0], since[0] = step, time.monotonic()

    thread = threading.Thread(target=watch, name="waiting", daemon=True)
    thread.start()
    try:
        yield say
    finally:
        over.set()
        thread.join()
