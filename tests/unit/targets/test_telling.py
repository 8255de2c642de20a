"""What a child tells while it works arrives whole, in order, and before its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from targets.telling import Listener, Teller


def test_messages_arrive_in_order_and_whole(tmp_path: Path) -> None:
    """Promise: many times what a pipe is read by at once, from several writers one after the other."""
    heard: list[Any] = []
    with Listener(tmp_path / "told", heard.append) as listener:
        for writer in range(3):
            with Teller(tmp_path / "told") as tell:
                for number in range(8):
                    tell({"writer": writer, "number": number, "text": "ä" * 900})
            listener.take()
        listener.take()
    assert [(m["writer"], m["number"]) for m in heard] == [(w, n) for w in range(3) for n in range(8)]
    assert all(m["text"] == "ä" * 900 for m in heard)


def test_a_message_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    """JSON has no NaN."""
    with (
        Listener(tmp_path / "told", lambda _: None),
        Teller(tmp_path / "told") as tell,
        pytest.raises(ValueError, match="JSON"),
    ):
        tell({"loss": float("nan")})
