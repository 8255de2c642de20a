"""Progress lines: one a finished stage, plain in a log."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from pipeline.cli import console
from pipeline.cli.console import ConsoleObserver, finished_line, json_observer
from pipeline.events import CandidateDropped, Notice, StageFinished, StageProgress, StageStarted, TrialStarted

if TYPE_CHECKING:
    import pytest

FINISHED = StageFinished(
    stage="prune", title="remove channels", reused=False, wall_s=1.25,
    results={"accuracy": 0.975, "parameters": 1234, "size_bytes": None, "widths": []}, digest="d",
)  # fmt: skip


def test_a_finished_stage_is_one_line() -> None:
    """Name, time, and only the figures that it has."""
    assert finished_line(FINISHED) == "prune                     1.2 s  accuracy 0.9750  1,234 parameters"


def test_a_stage_without_figures_shows_its_title() -> None:
    """So that no line is empty."""
    plain = StageFinished(stage="gate", title="decide", reused=True, wall_s=9.0, results={}, digest="d")
    assert finished_line(plain) == "gate                     reused  decide"


def test_a_log_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """Not a terminal: plain lines on stderr, nothing on stdout."""
    with ConsoleObserver() as observer:
        for event in (
            StageStarted(stage="prune", title="t"),
            StageProgress(stage="prune", done=0.5, text="half", values={"loss": 0.123456}),
            StageProgress(stage="prune", done=0.9, text="nearly", left_s=12.4),
            FINISHED,
            Notice(text="look"),
        ):
            observer(event)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "    prune  50%  half  loss 0.1235",
        "    prune  90%  nearly, 12 s left",
        finished_line(FINISHED),
        "  note: look",
    ]


def test_a_trial_tells_how_long_the_search_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Promise: which of how many, what is tried, and the time that all trials take yet, once there is a pace."""
    with ConsoleObserver() as observer:
        observer(TrialStarted(number=0, of=3, point={"prune.ratio": 0.5}))
        observer(TrialStarted(number=1, of=3, point={"prune.ratio": 0.7, "distill.epochs": 2}, left_s=41.6))
    assert capsys.readouterr().err.splitlines() == [
        "trial 1 of 3: prune.ratio=0.5",
        "trial 2 of 3, 42 s left: prune.ratio=0.7, distill.epochs=2",
    ]


def test_a_log_is_told_of_a_stage_that_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, while it works; one that is over before says nothing but its result."""
    monkeypatch.setattr(console, "PATIENCE_S", 0.0)
    with ConsoleObserver() as observer:
        observer(StageStarted(stage="prune", title="remove channels"))
        said = ""
        for _ in range(400):
            said += capsys.readouterr().err
            if said:
                break
            time.sleep(0.05)
    assert said == "    prune ...  remove channels\n"
    monkeypatch.setattr(console, "PATIENCE_S", 3600.0)
    with ConsoleObserver() as observer:
        observer(StageStarted(stage="prune", title="remove channels"))
        observer(FINISHED)
    assert capsys.readouterr().err == f"{finished_line(FINISHED)}\n"


def test_json_events_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the event holds."""
    json_observer(FINISHED)
    document = json.loads(capsys.readouterr().err)
    assert (document["event"], document["stage"], document["results"]["parameters"]) == ("StageFinished", "prune", 1234)


def test_a_dropped_candidate_is_one_line_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    """What, why and fix; one with nothing to offer is no news beside its stage's own line."""
    dropped = CandidateDropped(name="openvino-int8", what="no engine", why="not installed", fix="install it")
    quiet = CandidateDropped(name="int8-dynamic", what="nothing to gain here", why="a CNN", fix="name it", quiet=True)
    withdrawn = StageFinished(
        stage="convert:int8-dynamic",
        title="convert",
        reused=False,
        wall_s=0.1,
        results={"withdrawn": "a CNN"},
        digest="",
    )
    with ConsoleObserver() as observer:
        for event in (dropped, withdrawn, quiet):
            observer(event)
    assert capsys.readouterr().err.splitlines() == [
        "openvino-int8           dropped  no engine: not installed; install it",
        "convert:int8-dynamic      0.1 s  nothing to gain here",
    ]
    json_observer(quiet)
    assert json.loads(capsys.readouterr().err)["quiet"] is True


def test_a_log_is_not_told_the_same_words_again_and_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Promise: work that tells fine shares with the same words is one line for each twentieth of its stage."""
    with ConsoleObserver() as observer:
        for done in range(100):
            observer(StageProgress(stage="quantize", done=done / 1000, text="measuring", left_s=100.0 - done))
        observer(StageProgress(stage="quantize", done=0.1, text="choosing"))
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "    quantize   0%  measuring",
        "    quantize   5%  measuring",
        "    quantize  10%  choosing",
    ]
