"""``measure`` and ``compare``: what they take, what they print, how they exit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.benchmarking import bundles, everywhere
from pipeline.benchmarking.everywhere import Finished, Wanted
from pipeline.cli import main
from targets import files
from targets.errors import DeviceLost, EnvironmentFailure

Call = Callable[..., SimpleNamespace]
DOCUMENT: dict[str, Any] = {
    "campaign": {"blocks": 7, "wall_s": 20.0, "budget_s": 60.0, "stop": "interval", "mode": "default"},
    "device": {"id": "local", "cpu_model": "A CPU"},
    "engines": {"int8": {"options": {"threads": 1}, "bytes": 3000}},
    "scenario": {"kind": "latency"},
    "results": {"int8": {"latency_ms": {"value": 1.0, "ci95": [0.97, 1.03], "k": 7}, "memory": {}}},
    "comparison": [], "noise": {"floor_pct": None}, "warnings": [], "reproduce": "edgepress measure b",
    "quality": {"grade": "A", "reasons": [], "engines": {"int8": {"grade": "A", "reasons": []}}},
}  # fmt: skip


@pytest.fixture
def asked() -> list[Wanted]:
    """What the command asked to be measured."""
    return []


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[Wanted]
) -> Call:
    """Runs the command line on a bundle that is taken for good, with a campaign that has happened."""
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEPRESS_DEVICES", str(tmp_path / "devices"))
    opened = SimpleNamespace(
        name="int8",
        folder=tmp_path,
        entrant=SimpleNamespace(name="int8"),
        manifest=SimpleNamespace(profile={"device": {"affinity": "big"}}),
    )
    monkeypatch.setattr(bundles, "open_bundles", lambda paths, scratch, samples: (opened,) * len(paths))

    def measured(devices: Any, wanted: Wanted, scratch: Path, **_: Any) -> list[Finished]:  # noqa: ANN401
        asked.append(wanted)
        raw = scratch / "raw"
        raw.write_bytes(b"raw")
        lost = DeviceLost("device 'x' was lost", "after block 4 of 7", "reconnect it")
        return [Finished(device=d.name, document=DOCUMENT, raw=raw) for d in devices] + [
            Finished(device="x", error=lost) for _ in range("lost" in wanted.reproduce)
        ]

    monkeypatch.setattr(everywhere, "measure_everywhere", measured)

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["edgepress", *map(str, arguments)])
        code = main._run()
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


def test_the_table_and_the_command_to_repeat_it(call: Call, asked: list[Wanted]) -> None:
    """Stdout has the figures; the command names one device, whichever way it was given."""
    done = call("measure", "b", "--device=local", "--budget-s", "30")
    assert done.code == 0, done.err
    assert "1.00 ms [0.97, 1.03]" in done.out
    assert asked[0].reproduce == "edgepress measure b --budget-s 30 --device {device}"
    assert asked[0].options.budget_s == 30


def test_json_is_one_document_a_device(call: Call, tmp_path: Path) -> None:
    """And the files of --out are the same content."""
    done = call("measure", "b", "--json", "--out", tmp_path / "out")
    assert json.loads(done.out) == [DOCUMENT]
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf-8")) == DOCUMENT
    assert (tmp_path / "out" / "raw.json.gz").read_bytes() == b"raw"


def test_the_bundle_s_own_limits_hold_unless_told_otherwise(call: Call, asked: list[Wanted]) -> None:
    """Affinity of the profile it was built for."""
    call("measure", "b")
    call("measure", "b", "--affinity", "0,2-3")
    assert [wanted.options.affinity for wanted in asked] == ["big", "0,2-3"]


def test_scenarios_reach_the_campaign(call: Call, asked: list[Wanted]) -> None:
    """A rate is a period; a long run gets the budget that it needs."""
    call("measure", "b", "--scenario", "paced", "--fps", "50")
    call("measure", "b", "--scenario", "sustained", "--duration-s", "300")
    call("measure", "b", "--mode", "rigorous")
    paced, sustained, rigorous = (wanted.options for wanted in asked)
    assert rigorous.budget_s > 15 * 2 * 7, "fifteen blocks of the engine and its twin"
    assert (paced.scenario.kind, paced.scenario.period_ms) == ("paced", 20.0)
    assert sustained.budget_s >= 310


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("measure",), 2),
        (("compare", "a"), 2),
        (("measure", "b", "--budget-s", "-1"), 2),
        (("measure", "b", "--budget-s", "nan"), 3),
        (("measure", "b", "--mode", "sloppy"), 2),
        (("measure", "b", "--batch", "0"), 2),
        (("measure", "b", "--fps", "0"), 2),
        (("measure", "b", "--scenario", "paced", "--fps", "30", "--period-ms", "3"), 2),
        (("measure", "b", "--device", "local,local"), 2),
        (("measure", "b", "--device", "local", "--device", "local"), 2),
        (("measure", "b", "--device", ","), 2),
        (("measure", "b", "--samples", "/nowhere.npz"), 2),
        (("measure", "b", "--device", "nosuch"), 3),
        (("measure", "b", "--scenario", "paced"), 3),
        (("measure", "b", "--batch", "4"), 3),
        (("measure", "b", "--affinity", "0;reboot"), 3),
    ],
)
def test_absurd_requests_are_three_lines(
    arguments: tuple[str, ...], code: int, call: Call, asked: list[Wanted]
) -> None:
    """Nothing is measured, the exit code is the documented one, there is no traceback."""
    done = call(*arguments)
    assert done.code == code, done.err
    assert [line.split(":")[0].strip() for line in done.err.splitlines()] == ["error", "why", "fix"]
    assert not asked


def test_strict_refuses_a_void_measurement(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 6 and what is void; without it the results are shown with their grade, exit 0."""
    monkeypatch.setitem(
        DOCUMENT,
        "quality",
        {"grade": "F", "reasons": [], "engines": {"int8": {"grade": "F", "reasons": ["W-OUTPUT: x"]}}},
    )
    assert call("measure", "b").code == 0
    done = call("measure", "b", "--strict")
    assert done.code == 6
    assert "W-OUTPUT" in done.err
    assert "F" in done.out


def test_a_lost_device_exits_6_after_the_others_are_shown(call: Call) -> None:
    """The table of what was finished comes first."""
    done = call("measure", "lost/bundle")
    assert done.code == 6
    assert "1.00 ms" in done.out
    assert done.err.startswith("error: device 'x' was lost")


def test_a_place_that_cannot_be_written_is_found_before_the_work(
    call: Call, tmp_path: Path, asked: list[Wanted]
) -> None:
    """A file in the way of --out ends it at once."""
    (tmp_path / "out").write_text("", encoding="utf-8")
    assert call("measure", "b", "--out", tmp_path / "out" / "deep").code != 0
    assert not asked


def test_a_disk_that_fills_up_costs_the_files_and_not_the_figures(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What took minutes to measure is shown, then the error of --out ends it."""

    def full(path: Path, *_: object) -> None:
        raise EnvironmentFailure(f"writing {path.name} failed", "No space left on device", "free 1 MB")

    monkeypatch.setattr(files, "write_atomic", full)
    done = call("measure", "b", "--out", tmp_path / "out")
    assert done.code == 5
    assert "1.00 ms [0.97, 1.03]" in done.out
    assert done.err.startswith("error: writing raw.json.gz failed")
