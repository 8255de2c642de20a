"""The search at every moment: what is on the disk is valid, and the best bundle was measured in full."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pipeline.events import TrialStarted
from pipeline.recipe import Recipe, load_recipe
from pipeline.search import search
from pipeline.search.candidates import Engine, Tried
from pipeline.search.pace import Pace
from pipeline.search.proxies import Glance
from pipeline.search.trial import Found
from pipeline.store import Store
from pipeline.timeleft import TimeLeft
from targets.errors import BudgetError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.events import Event
    from pipeline.search import SearchResult

BASE = """
task = "classification"
name = "toy"
[model]
factory = "user.py:net"
[train]
epochs = 1
[data]
factory = "user.py:data"
[prune]
ratio = 0.3
[distill]
epochs = 2
[budget]
accuracy_drop = 0.01
[search]
trials = 10
startup_trials = 4
[search.space]
prune.ratio = { low = 0.05, high = 0.9, step = 0.05 }
"""


class Ran(NamedTuple):
    """What a full run said."""

    met_budget: bool
    shipped: str = "int8"
    engine: Engine | None = None
    engines: tuple[Engine, ...] = ()

    def publish(self, *_where: object) -> None:
        """There is nothing to put anywhere."""


class Bench:
    """A stand-in for training and measuring: known figures at once, and a note of what was asked."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.tried: list[float] = []
        self.full: list[float] = []
        self.settings: list[dict[str, object]] = []
        self.fail: set[int] = set()
        self.die_at: int | None = None
        self.drop_scale = 0.1
        self.refute: set[float] = set()
        self.pace: Pace | None = None
        self.die_in_full = False
        patch.setattr("pipeline.search.loop.try_candidate", self.try_candidate)
        patch.setattr("pipeline.search.loop.Search._full_run", self.full_run)

    def try_candidate(self, recipe: Recipe, *_rest: object) -> Found:
        assert recipe.prune is not None
        assert recipe.benchmark.mode == "quick"
        ratio = float(getattr(recipe.prune, "ratio", 0) or 0)
        if self.die_at is not None and len(self.tried) >= self.die_at:
            raise KeyboardInterrupt
        self.tried.append(ratio)
        if len(self.tried) in self.fail:
            raise InputError("no such luck", "it was not to be", "try another one")
        glance = Glance(accuracy=1 - ratio, macs=int(1000 * (1 - ratio)))
        return Found(engines=(self.engine(ratio),), glance=glance, pace=self.pace)

    def engine(self, ratio: float) -> Engine:
        drop = max(0.0, ratio - 0.5) * self.drop_scale
        return Engine(
            name="int8", accuracy=1 - drop, accuracy_drop=drop, latency_ms=1 - ratio, latency_ratio=1 - ratio,
            size_bytes=int(1e6 * (1 - ratio)), memory_bytes=1,
        )  # fmt: skip

    def full_run(self, leader: Tried, settings: Mapping[str, object]) -> Ran:
        self.settings.append(dict(settings))
        ratio = leader.point["prune.ratio"]
        self.full.append(ratio)
        if self.die_in_full:
            raise KeyboardInterrupt
        return Ran(met_budget=leader.feasible and ratio not in self.refute, engine=self.engine(ratio))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def run(tmp_path: Path, *, text: str = BASE, heard: list[Event] | None = None) -> SearchResult:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "user.py").write_text("def net():\n    pass\ndef data():\n    pass\n", encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    found = search(
        load_recipe(tmp_path / "recipe.toml"),
        targets=["host"],
        out=tmp_path / "out",
        store=Store(tmp_path / "store"),
        observer=(heard if heard is not None else []).append,
    )
    return found[0]


def test_the_fastest_that_meets_the_floor_leads_and_was_measured_in_full(bench: Bench, tmp_path: Path) -> None:
    """Promise: what ships meets the budget in a full measurement, and is the best of what was tried."""
    result = run(tmp_path)
    allowed = [ratio for ratio in bench.tried if max(0.0, ratio - 0.5) * 0.1 <= 0.01 + 1e-9]
    best = next(trial for trial in result.found["trials"] if trial["number"] == result.found["best"])
    assert result.met_budget
    assert best["point"]["prune.ratio"] == max(allowed)
    assert bench.full[-1] == max(allowed)
    assert len(set(bench.tried)) == 10
    result.raise_if_rejected()


def test_a_candidate_that_does_not_hold_its_figures_is_not_the_best(bench: Bench, tmp_path: Path) -> None:
    """Promise: a screening that flattered is found out, and the next best leads."""
    tried = [trial["point"]["prune.ratio"] for trial in run(tmp_path / "a").found["trials"]]
    first = max(ratio for ratio in tried if ratio <= 0.6)
    bench.refute = {first}
    again = run(tmp_path / "b")
    best = next(trial for trial in again.found["trials"] if trial["number"] == again.found["best"])
    assert again.met_budget
    assert best["point"]["prune.ratio"] < first


def test_an_infeasible_budget_gives_the_least_violating_and_says_what_binds(bench: Bench, tmp_path: Path) -> None:
    """Promise: exit 7, the closest bundle is kept, and the reader learns how far the limit would have to move."""
    result = run(tmp_path, text=BASE.replace("accuracy_drop = 0.01", "latency_ms = 0.01\nsize_mb = 99.0"))
    assert not result.met_budget
    assert bench.full, "the closest one is bundled all the same"
    with pytest.raises(BudgetError, match="latency_ms would have to be") as caught:
        result.raise_if_rejected()
    assert caught.value.exit_code == 7


def test_interrupted_at_any_trial_it_goes_on_to_the_same_front(bench: Bench, tmp_path: Path) -> None:
    """Promise: Ctrl-C loses nothing: documents are whole, and the front in the end is that of an undisturbed search."""
    whole = run(tmp_path / "whole")
    bench.tried.clear()
    for die_at in range(1, 10, 2):
        bench.die_at = die_at
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken")
        seen = json.loads((tmp_path / "broken/out/toy/host.search/search.json").read_text(encoding="utf-8"))
        assert len(seen["trials"]) == die_at
    bench.die_at = None
    assert run(tmp_path / "broken").found["trials"] == whole.found["trials"]
    assert run(tmp_path / "broken").found["front"] == whole.found["front"]


def test_candidates_that_cannot_be_made_are_told_and_stop_nobody(bench: Bench, tmp_path: Path) -> None:
    """Promise: one impossible candidate is a line in the report; a recipe that never works is an error at once."""
    bench.fail = {2, 5}
    result = run(tmp_path / "some")
    assert [one["failed"] for one in result.found["given_up"]] == [True, True]
    assert len(result.found["trials"]) == 8
    bench.tried.clear()
    bench.fail = set(range(1, 99))
    with pytest.raises(InputError, match="could not be made"):
        run(tmp_path / "none")
    assert len(bench.tried) == 3


def test_a_time_budget_ends_the_search(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: no candidate is begun after the time is over; what was found is there."""
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("pipeline.search.loop.time.monotonic", lambda: float(next(clock)))
    result = run(tmp_path, text=BASE.replace("trials = 10", "trials = 10\ntime_budget_s = 35.0"))
    assert 0 < len(result.found["trials"]) < 10
    assert result.found["best"] is not None
    assert bench.full


SHORTENED = BASE.replace("epochs = 2", "epochs = 20").replace(
    "trials = 10",
    "trials = 4\ntime_budget_s = 1000.0\nscreening = { distill = { epochs = 1 }, benchmark.mode = 'quick' }",
)


def test_screened_by_short_training_the_leader_is_trained_in_the_time_that_is_left(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: one full training of what promises most, with epochs that fit; interrupted, it goes on with the same."""
    interim: list[object] = []
    monkeypatch.setattr("pipeline.search.loop.Search._bundle_as_screened", lambda _self: interim.append(1))
    monkeypatch.setattr("pipeline.search.loop.train_samples", lambda *_: 10_000)
    bench.pace, bench.die_in_full = Pace(sample_s=0.005, rest_s=10.0), True
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, text=SHORTENED)
    bench.die_in_full = False
    bench.pace = Pace(sample_s=99.0, rest_s=10.0)
    result = run(tmp_path, text=SHORTENED)
    assert len(bench.tried) == 4
    assert len(interim) == 4 + 2, "after each trial, and at the beginning of each call"
    assert bench.settings[0] == bench.settings[1]
    assert 1 < bench.settings[0]["distill.epochs"] < 20  # type: ignore[operator]
    assert len(set(bench.full)) == 1
    assert result.met_budget
    best = next(trial for trial in result.found["trials"] if trial["number"] == result.found["best"])
    assert best["confirmed"]["settings"] == bench.settings[0]
    assert f"distill.epochs={bench.settings[0]['distill.epochs']}" in result.found["best_settings"]


def test_another_recipe_is_another_study(bench: Bench, tmp_path: Path) -> None:
    """Promise: figures of a recipe that has changed are not taken for those of this one."""
    run(tmp_path)
    bench.tried.clear()
    run(tmp_path, text=BASE.replace("epochs = 2", "epochs = 3"))
    assert len(bench.tried) == 10
    bench.tried.clear()
    run(tmp_path, text=BASE.replace("trials = 10", "trials = 12"))
    assert len(bench.tried) == 2, "more trials of the same search go on with what is known"


def test_the_page_is_inert_and_whole(bench: Bench, tmp_path: Path) -> None:
    """Promise: well-formed, no script, nothing remote, names escaped; the same findings give the same bytes."""
    del bench
    result = run(tmp_path, text=BASE.replace('name = "toy"', 'name = "toy"'))
    page = (result.folder / "search.html").read_text(encoding="utf-8")
    ET.fromstring(page.partition("<!DOCTYPE html>")[2])
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    from pipeline.reporting.search_page import render_search

    nasty = json.loads(json.dumps(result.found))
    nasty["recipe"] = "<img src=x>"
    assert "<img" not in render_search(nasty)
    assert render_search(result.found) == page


def test_each_trial_tells_how_long_trials_go_on(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: by the pace of those before it, and never longer than the time budget has left."""
    shares: list[float] = []
    monkeypatch.setattr(TimeLeft, "left_s", lambda _self, share: shares.append(share) or 1000.0 * (1 - share))
    heard: list[Event] = []
    run(tmp_path, text=BASE.replace("trials = 10", "trials = 10\ntime_budget_s = 600.0"), heard=heard)
    told = [event.left_s for event in heard if isinstance(event, TrialStarted)]
    assert shares == pytest.approx([number / 10 for number in range(10)])
    assert told[4:] == pytest.approx([600.0, 500.0, 400.0, 300.0, 200.0, 100.0], abs=60.0)
    assert all(left_s is not None and left_s <= 600.0 for left_s in told)
