"""Lines on stderr while a command works, for people or as JSON; what libraries log stands among them."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import click


def say(text: str) -> None:
    """One line; the work goes on when nobody reads it any more."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(text, err=True)


def say_json(event: str, **fields: object) -> None:
    """One event as a JSON line."""
    say(json.dumps({"event": event, **fields}, sort_keys=True, default=dict))


@contextmanager
def telling_logs(*, quiet: bool, as_json: bool) -> Iterator[None]:
    """While it lasts, warnings of loggers are notes in the form of the other lines; none with ``quiet``."""
    handler, logger = _Notes(quiet=quiet, as_json=as_json), logging.getLogger()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@final
class _Notes(logging.Handler):
    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        super().__init__(logging.WARNING)
        self._quiet, self._as_json = quiet, as_json

    def emit(self, record: logging.LogRecord) -> None:
        if self._quiet:
            return
        text = record.getMessage()
        if self._as_json:
            say_json("Notice", text=text)
        else:
            say(f"  note: {text}")
