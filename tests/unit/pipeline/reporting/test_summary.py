"""The terminal summary: readable with and without a terminal, and obeyed by neither."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from pipeline.reporting.summary import terminal_summary


def printed(run: dict[str, Any], *, terminal: bool = False, width: int = 120) -> str:
    stream = io.StringIO()
    Console(file=stream, force_terminal=terminal, width=width, color_system="standard" if terminal else None).print(
        terminal_summary(run)
    )
    return stream.getvalue()


def test_it_says_what_shipped_and_how_fast_it_is(full_run: dict[str, Any]) -> None:
    """Candidates, the mark of the shipped one, the verdict, its reasons and the warnings are all there."""
    shown = printed(full_run)
    for expected in (
        "int8 *", "0.200 ms [0.196, 0.204]", "[1.94, 2.06]", "98.3 %", "149 kB", "int8 is 2.0 times faster.",
        "in budget",
        "W-VIRTUAL a virtual machine\n  Fix: use the device",
    ):  # fmt: skip
        assert expected in shown
    assert "\x1b" not in shown


def test_a_reference_that_ships_is_told_once(full_run: dict[str, Any]) -> None:
    """Promise: that nothing compressed ships, and why, is one sentence and not two."""
    for candidate in full_run["candidates"]:
        candidate["shipped"] = candidate is full_run["candidates"][0]
    name = full_run["verdict"]["shipped"] = full_run["candidates"][0]["name"]
    full_run["verdict"]["sentence"] = f"{name} ships on host: no compressed candidate was shown to be better."
    assert printed(full_run).count(f"{name} ships") == 1


def test_a_bare_run_is_its_verdict(bare_run: dict[str, Any]) -> None:
    """Without candidates there is no empty table."""
    assert printed(bare_run).strip() == "Nothing meets the budget."


def test_names_cannot_drive_the_terminal(full_run: dict[str, Any]) -> None:
    """Escape sequences and rich markup in names and sentences are shown, not obeyed."""
    full_run["candidates"][0]["name"] = "[red]x[/red]\x1b]0;owned\x07"
    full_run["verdict"]["sentence"] = "[link=file:///x]y[/link]\x1b[2J"
    shown = printed(full_run, terminal=True, width=200)
    assert "[red]x[/red]\\x1b]0;owned\\x07" in shown
    assert "[link=file:///x]y[/link]\\x1b[2J" in shown
    assert "\x1b]" not in shown
    assert "\x1b[2J" not in shown


def test_a_narrow_terminal_still_shows_the_verdict(full_run: dict[str, Any]) -> None:
    """At 40 columns nothing is lost of the sentence."""
    assert "int8 is 2.0 times faster." in printed(full_run, width=40)


def test_what_could_not_be_built_is_told_with_its_remedy(full_run: dict[str, Any]) -> None:
    """One line each, the remedy on one of its own; formats that have nothing to offer are not news."""
    full_run["dropped"] = [
        {"name": "openvino-int8", "what": "no engine", "why": "not installed", "fix": "install openvino"},
        {"name": "int8-dynamic", "what": "nothing to gain here", "why": "a CNN", "quiet": True},
    ]
    shown = printed(full_run)
    assert "openvino-int8 not built: no engine: not installed\n  Fix: install openvino" in shown
    assert "int8-dynamic" not in shown
