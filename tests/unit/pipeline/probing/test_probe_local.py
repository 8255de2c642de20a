"""A probe of this very machine, from nets to a profile that loads."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from pipeline.probing import prepare as preparing
from pipeline.probing.nets import synthetic_nets
from pipeline.probing.prepare import prepare
from pipeline.probing.probe import ProbeOptions, probe
from pipeline.probing.trials import machine_of, trials_for
from targets import machine
from targets.devices.local import LocalDevice
from targets.errors import EdgepressError, Interrupted, UsageError
from targets.profile import profile_from


@pytest.mark.long
@pytest.mark.timeout(600)
def test_this_machine_gets_a_profile_of_what_was_measured() -> None:
    """Promise: every runtime here is measured on both nets in float and int8, and int8 pays somewhere."""
    notes: list[str] = []
    found = probe(LocalDevice(), ProbeOptions(name="here", budget_s=60, threads=1), on_note=notes.append)
    profile = profile_from("here", tomllib.loads(found.text))
    assert machine.provides(profile.hardware.arch, profile.hardware.isa)
    assert {score.trial.label for score in found.scores} >= set(found.machine.runtimes) - {"tensorrt"}
    assert "int8" in profile.quantization.precisions
    assert len({note for note in notes if note.startswith("measuring")}) == 2
    for score in found.scores:
        assert set(score.times) == {"convolutions", "products"}
        assert all(0 < timing.latency_ms < 1000 for timing in score.times.values())


@pytest.mark.parametrize("budget_s", [0, 19.9, float("nan"), -1])
def test_a_budget_too_short_is_refused_at_once(budget_s: float) -> None:
    """Promise: nothing is built for a probe that could measure nothing."""
    with pytest.raises(UsageError, match="too short"):
        probe(LocalDevice(), ProbeOptions(name="here", budget_s=budget_s))


def _failing(error: EdgepressError, at: str) -> object:
    def build(model: Path, profile: object, precision: str, out: Path) -> None:
        out.mkdir()
        if precision == at:
            raise error

    return build


def test_what_cannot_be_built_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: an engine that refuses a net is named with the reason; the first one, or an interruption, ends it."""
    (net, _) = synthetic_nets(tmp_path)
    here = machine_of("local", "local", LocalDevice().facts(), threads=1)
    trials = trials_for(here)
    monkeypatch.setattr(preparing._Models, "of", lambda self, trial: net.model)
    for index, (error, at) in enumerate(
        [
            (EdgepressError("it refuses", "the reason", "mend it"), "int8"),
            (Interrupted("stopped", "a signal", "again"), "int8"),
            (EdgepressError("no float", "the reason", "mend it"), "fp32"),
        ]
    ):
        monkeypatch.setattr("pipeline.stages.inference.build_engine", _failing(error, at))
        folder = tmp_path / str(index)
        folder.mkdir()
        if index:
            with pytest.raises(type(error), match=error.what):
                prepare(net, trials, here, folder, lambda _: None)
            continue
        made = prepare(net, trials, here, folder, lambda _: None)
        ints = {trial.name for trial in trials if trial.precision == "int8"}
        assert set(made.dropped) == ints
        assert set(made.dropped.values()) == {"it refuses: the reason"}
        assert set(made.engines) == {trial.name for trial in trials} - ints
