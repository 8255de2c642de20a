"""What takes a while and tells no share: a spinner with the seconds; in a log a line after two; or JSON lines."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pipeline.cli.saying import say, say_json, telling_logs

_PATIENCE_S: Final = 2.0


@contextmanager
def waiting(text: str, *, quiet: bool = False, as_json: bool = False) -> Iterator[Callable[[str], None]]:
    """Shows that work goes on, on stderr; gives a function that says what is done now.

    Args:
        text: What is done at first.
        quiet: Show nothing.
        as_json: Write a JSON line for each step instead.
    """
    with telling_logs(quiet=quiet, as_json=as_json):
        if quiet:
            yield lambda _text: None
        elif as_json:
            say_json("Step", text=text)
            yield lambda now: say_json("Step", text=now)
        elif sys.stderr.isatty():
            with _spinner(text) as now_doing:
                yield now_doing
        else:
            with _patient(text) as now_doing:
                yield now_doing


@contextmanager
def _spinner(text: str) -> Iterator[Callable[[str], None]]:
    """What is done now, and for how long already."""
    from pipeline.cli.bars import progress

    with progress(shares=False) as bar:
        task = bar.add_task(text, total=None)
        yield lambda now: bar.update(task, description=now)


@contextmanager
def _patient(text: str) -> Iterator[Callable[[str], None]]:
    """A line for each step that is not over after two seconds."""
    now, over, said = [text], threading.Event(), set[str]()
    since = [time.monotonic()]

    def watch() -> None:
        while not over.wait(0.25):
            if now[0] not in said and time.monotonic() - since[0] >= _PATIENCE_S:
                said.add(now[0])
                say(f"{now[0]} ...")

    def step(text: str) -> None:
        now[0], since[0] = text, time.monotonic()

    thread = threading.Thread(target=watch, name="waiting", daemon=True)
    thread.start()
    try:
        yield step
    finally:
        over.set()
        thread.join()
