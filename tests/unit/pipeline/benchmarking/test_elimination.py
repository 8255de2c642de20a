"""A tight budget goes to engines that can still win; one that could win is never left out."""

from __future__ import annotations

import dataclasses
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.benchmarking.campaign import CampaignOptions, Entrant, run_campaign
from pipeline.benchmarking.elimination import left_out
from pipeline.benchmarking.journal import Pass
from pipeline.benchmarking.modes import MODES
from pipeline.benchmarking.request import Scenario, Standing

if TYPE_CHECKING:
    from collections.abc import Callable

Make = Any  # the fixture that makes a synthetic device
EQUAL = Standing(accuracy=0.9, size_bytes=0, memory_counts=False, may_leave=True)


def _sitting(standings: dict[str, Standing | None], budget_s: float = 30.0, **changes: object) -> Any:  # noqa: ANN401
    staged = tuple(SimpleNamespace(name=name, standing=standing) for name, standing in standings.items())
    options = SimpleNamespace(budget_s=budget_s, scenario=Scenario())
    mode = MODES["default"]
    return SimpleNamespace(**{"staged": staged, "options": options, "mode": mode, "looks": mode.looks, **changes})


def _passes(blocks: int, ms: Callable[[str, int], float], names: list[str], **row: object) -> tuple[Pass, ...]:
    return tuple(
        Pass(
            block=block, attempt=0, order=tuple(names), discarded=None, warmup_s=0.1, length_s=5.0,
            elapsed_s=5.0 * (block + 1),
            rows=tuple({"engine": n, "block": block, "median_ns": 1e6 * ms(n, block), **row} for n in names),
        )
        for block in range(blocks)
    )  # fmt: skip


def _slow_is_slower(name: str, block: int) -> float:
    return (2.0 if name == "slow" else 1.0) * (1 + 0.001 * block)


def test_what_cannot_win_is_left_out_after_three_blocks() -> None:
    """Promise: twice as slow, no more accurate: after three blocks of a tight budget it is measured no longer."""
    standings: dict[str, Standing | None] = {"fast": EQUAL, "slow": EQUAL}
    passes = _passes(4, _slow_is_slower, [*standings])
    assert left_out(_sitting(standings), passes[:2]) == {}
    found = left_out(_sitting(standings), passes[:3])
    assert {name: (item.after, item.by) for name, item in found.items()} == {"slow": (3, "fast")}
    assert found["slow"].ratio == pytest.approx(2.0)
    assert left_out(_sitting(standings), passes) == found  # what was decided stays decided


@pytest.mark.parametrize(
    "slow",
    [
        dataclasses.replace(EQUAL, accuracy=0.91),
        dataclasses.replace(EQUAL, size_bytes=-1),
        dataclasses.replace(EQUAL, may_leave=False),
        None,
    ],
)
def test_what_could_still_win_never_is(slow: Standing | None) -> None:
    """Promise: more accurate, smaller, asked for by name, or of unknown standing: it is measured to the end."""
    standings: dict[str, Standing | None] = {"fast": EQUAL, "slow": slow}
    assert left_out(_sitting(standings), _passes(6, _slow_is_slower, [*standings])) == {}


def test_memory_counts_where_a_decision_looks_at_it() -> None:
    """Promise: a slow engine that takes less memory stays where there is a ceiling; unknown memory wins nothing."""
    standings: dict[str, Standing | None] = dict.fromkeys(
        ("fast", "slow"), dataclasses.replace(EQUAL, memory_counts=True)
    )
    passes = _passes(3, _slow_is_slower, [*standings], mem={"run_peak": 100})
    assert "slow" in left_out(_sitting(standings), passes)
    thrifty = tuple(
        dataclasses.replace(
            item, rows=tuple({**row, "mem": {"run_peak": 90 if row["engine"] == "slow" else 100}} for row in item.rows)
        )
        for item in passes
    )
    assert left_out(_sitting(standings), thrifty) == {}


def test_a_budget_that_holds_all_blocks_leaves_nothing_out() -> None:
    """Promise: with time for every engine up to the next look, all are measured."""
    standings: dict[str, Standing | None] = {"fast": EQUAL, "slow": EQUAL}
    assert left_out(_sitting(standings, budget_s=500.0), _passes(3, _slow_is_slower, [*standings])) == {}
    wrong = _passes(3, _slow_is_slower, [*standings], outputs_ok=False)
    assert left_out(_sitting(standings), wrong) == {}


def test_equal_engines_are_hardly_ever_told_apart() -> None:
    """Promise: of engines that scatter by 3 % and do not differ, at most 4 of 1,000 campaigns leave one out."""
    standings: dict[str, Standing | None] = {"a": EQUAL, "b": EQUAL}
    wrong = 0
    for seed in range(1000):
        noise = random.Random(seed)
        wrong += bool(left_out(_sitting(standings), _passes(6, lambda _n, _b, r=noise: r.gauss(1.0, 0.03), ["a", "b"])))
    assert wrong <= 4


def test_a_campaign_spends_its_budget_on_the_others(synthetic: Make, entrants: list[Entrant]) -> None:
    """Promise: the one left out keeps its blocks, the other one gets the rest; the document and a note say so."""
    standing = dataclasses.replace(EQUAL, may_leave=True)
    racing = [dataclasses.replace(entrant, standing=standing) for entrant in entrants]
    found = run_campaign(racing, synthetic(), CampaignOptions(budget_s=12.0))
    left = found["campaign"]["left_out"]
    assert list(left) == ["fp32"]
    counts = {name: sum(run["engine"] == name for run in found["runs"]) for name in ("fp32", "int8")}
    assert counts["fp32"] == left["fp32"]["after_blocks"] < counts["int8"]
    assert [item["engine"] for item in found["warnings"] if item["code"] == "W-LEFT-OUT"] == ["fp32"]
    assert found["comparison"][0]["blocks"] == counts["fp32"]
