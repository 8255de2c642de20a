"""Every command that the documentation shows is one that the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from pipeline.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]


def _commands() -> list[tuple[str, str]]:
    """(page, command line) for each line of a code block that calls edgepress, and each such inline code."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            joined = block.replace("\\\n", " ")
            found += [
                (page.name, line) for line in joined.splitlines() if re.match(r"\s*(\$ )?(\S*/)?edgepress ", line)
            ]
        found += [(page.name, line) for line in re.findall(r"`(edgepress [^`\n]+)`", text)]
    for job in sorted((ROOT / "examples").rglob("*.yml")):
        found += [(job.name, line) for line in re.findall(r"run: (edgepress .+)", job.read_text(encoding="utf-8"))]
    return found


@pytest.mark.parametrize(("page", "line"), _commands())
def test_a_command_of_the_documentation_is_understood(page: str, line: str) -> None:
    """Promise: the command exists, and each of its options too."""
    words = shlex.split(line.strip().removeprefix("$ "), comments=True)
    for stop in (">", ">>", "|", "&&"):
        words = words[: words.index(stop)] if stop in words else words
    command: click.Command = cli
    words = words[1:]
    context = click.Context(cli, info_name="edgepress")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0].isupper() or "..." in words[0] or "|" in words[0] or "<" in words[0]:
            return  # `edgepress COMMAND` and `add|list` stand for several
        found = command.get_command(context, words[0])
        assert found is not None, f"{page}: no command {words[0]!r} in {line!r}"
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word):
            assert word.partition("=")[0] in {*known, "--help", "-h"}, f"{page}: no option {word!r} in {line!r}"
