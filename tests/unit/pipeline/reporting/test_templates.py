"""What the pages' templates can do."""

from __future__ import annotations

import pytest

from pipeline.reporting.templates import templates


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("run `edgepress compare`, then look", "run <code>edgepress compare</code>, then look"),
        ("`<script>` & `x`", "<code>&lt;script&gt;</code> &amp; <code>x</code>"),
        ("a lone ` of <b>", "a lone ` of &lt;b&gt;"),
    ],
)
def test_backticks_are_code_and_nothing_else_is_markup(text: str, shown: str) -> None:
    """Promise: commands in a note look like commands; what is foreign stays text."""
    assert templates().from_string("{{ text | code }}").render(text=text) == shown
