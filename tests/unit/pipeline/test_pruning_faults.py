"""Faults of `[prune]`: exactly one target, schedules that can run, data that are there; all at once, by path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.recipe import load_recipe
from targets.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

FACTORY = 'task = "classification"\n[model]\nfactory = "m.py:net"\nweights = "w.pt"\n[data]\nfactory = "d.py:data"\n'
FIDELITY = 'task = "fidelity"\n[model]\nfactory = "m.py:net"\nweights = "w.pt"\n[data]\nnpz = "d.npz"\n'


def faults(tmp_path: Path, text: str, *overrides: str) -> set[str]:
    """Where the recipe is wrong."""
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    try:
        load_recipe(tmp_path, overrides)
    except InputError as error:
        return {fault.where for fault in error.faults}
    return set()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[prune]\n", {"prune"}),
        ("[prune]\nratio = 0.5\nmacs_ratio = 0.5\n", {"prune"}),
        ("[prune]\nratio = 0.0\n", {"prune.ratio"}),
        ("[prune]\nlatency_ratio = 1.0\n", {"prune.latency_ratio"}),
        ("[prune]\nlatency_ms = -1.0\n", {"prune.latency_ms"}),
        ("[prune]\nratio = 0.5\nsteps = 3\n", {"prune.steps"}),
        ('[prune]\nratio = 0.5\nschedule = "cubic"\n', {"prune.steps", "prune.finetune"}),
        ('[prune]\nratio = 0.5\nschedule = "linear"\nsteps = 4\n[prune.finetune]\nepochs = 1\n', set()),
        ('[prune]\nratio = 0.5\ncriterion = "l2"\nsamples = 64\n', {"prune.samples"}),
        ('[prune]\nsize_mb = 0.5\ncriterion = "taylor"\nsamples = 64\n', set()),
        ('[prune]\nratio = 0.5\ncriterion = "magic"\n', {"prune.criterion"}),
        ("[prune]\nratio = 0.5\n[prune.latency]\nnets = 8\n", {"prune.latency"}),
        (
            '[prune]\nlatency_ms = 1.0\nscope = "global"\n[benchmark]\nmeasure = false\n',
            {"prune.latency_ms", "prune.scope"},
        ),
        ("[prune]\nlatency_ms = 1.0\n[prune.latency]\nnets = 8\n", set()),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_path(text: str, where: set[str], tmp_path: Path) -> None:
    """Promise: each fault of the section names its key, all of them at once; what is right passes."""
    assert faults(tmp_path, FACTORY + text) == where


def test_data_that_are_not_there(tmp_path: Path) -> None:
    """Promise: a criterion that looks at samples, and fine-tuning, need a training split and, some, labels."""
    text = FIDELITY + '[prune]\nratio = 0.5\ncriterion = "taylor"\n[prune.finetune]\nepochs = 1\n'
    assert faults(tmp_path, text) == {"prune.criterion", "prune.finetune"}
    assert faults(tmp_path, FIDELITY + '[prune]\nratio = 0.5\ncriterion = "fpgm"\n') == set()


def test_targets_that_cannot_time_layers(tmp_path: Path) -> None:
    """Promise: a latency on an engine that times no layers is refused before anything runs, with what to do."""
    from pipeline.chain import chain_faults
    from targets.profile import load_profile

    (tmp_path / "recipe.toml").write_text(FACTORY + "[prune]\nlatency_ms = 1.0\n", encoding="utf-8")
    recipe = load_recipe(tmp_path)
    (fault,) = chain_faults(recipe, load_profile("jetson-orin-nano"))
    assert fault.where == "prune.latency_ms"
    assert "macs_ratio" in fault.fix
    assert chain_faults(recipe, load_profile("x86-64-vnni")) == []


def test_a_latency_has_a_table_and_a_plan(tmp_path: Path) -> None:
    """Promise: the table knows no target of pruning, so that every target on the device takes it from the store."""
    from pipeline.compose import compose
    from pipeline.stages.base import configuration
    from targets.profile import load_profile

    for name in ("m.py", "d.py", "w.pt"):
        (tmp_path / name).write_text("net = data = print\n", encoding="utf-8")
    tables, plans = [], []
    for target in ("latency_ms = 1.0", "latency_ratio = 0.4"):
        (tmp_path / "recipe.toml").write_text(FACTORY + f"[prune]\n{target}\n", encoding="utf-8")
        nodes = {n.name: n for n in compose(load_recipe(tmp_path), load_profile("host")).nodes}
        assert nodes["prune"].inputs["plan"] == ("allocate",)
        assert nodes["allocate"].inputs["table"] == "latency_table"
        assert nodes["latency_table"].stage.measured
        assert nodes["allocate"].stage.measured
        assert nodes["latency_table"].stage.fingerprint  # type: ignore[attr-defined]
        tables.append(configuration(nodes["latency_table"].stage))
        plans.append(configuration(nodes["allocate"].stage))
    assert tables[0] == tables[1]
    assert plans[0] != plans[1]
