"""Every command that may take more than two seconds can be silenced, and followed by a program."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import click
import pytest

from pipeline.cli.main import cli
from pipeline.cli.observing import observing
from pipeline.cli.saying import telling_logs

OVER_AT_ONCE: Final = {
    "cache ls": "reads an index",
    "completion": "prints a text",
    "devices list": "reads a file",
    "devices rm": "writes a file",
    "devices shell": "is the user's own program, with its own output",
    "doctor": "asks for versions only",
    "explain": "reads a file",
    "schema": "prints a text",
    "targets list": "reads files",
    "targets show": "reads a file",
    "targets validate": "reads files",
}


def _leaves(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by how it is called."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _leaves(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


COMMANDS: Final = dict(_leaves(cli))


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {*OVER_AT_ONCE}))
def test_whatever_takes_long_has_quiet_and_json(name: str) -> None:
    """Promise: no command is forgotten; what is over at once stands in one list, with why."""
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {"--quiet", "-q", "--json"} <= options
    assert "JSON lines on stderr" in next(p.help or "" for p in COMMANDS[name].params if "--json" in p.opts)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(OVER_AT_ONCE))
def test_what_is_over_at_once_exists(name: str) -> None:
    """Promise: the list above names commands that are there, and that have nothing to be quiet about."""
    assert "--quiet" not in {option for parameter in COMMANDS[name].params for option in parameter.opts}


@pytest.mark.parametrize(
    ("quiet", "as_json", "said"),
    [
        (False, False, "  note: waiting for 'pi'\n"),
        (False, True, '{"event": "Notice", "text": "waiting for \'pi\'"}\n'),
        (True, False, ""),
    ],
)
def test_what_libraries_log_takes_the_form_of_the_rest(
    *, quiet: bool, as_json: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Promise: a warning breaks no JSON line and no silence; after the command loggers are as before."""
    before = [*logging.getLogger().handlers]
    with telling_logs(quiet=quiet, as_json=as_json):
        logging.getLogger("targets.devices.local").warning("waiting for %r", "pi")
    assert capsys.readouterr().err == said
    with observing(as_json=as_json, quiet=quiet):
        logging.getLogger("targets.devices.local").warning("waiting for %r", "pi")
    assert capsys.readouterr().err == said
    assert logging.getLogger().handlers == before
