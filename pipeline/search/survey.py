"""Looks at model and data once, before a default space is made: all of it goes to the store, where trials find it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.compose import compose
from pipeline.runner import artifact_of, run_plan
from pipeline.search.defaults import Facts
from pipeline.stages.finetune import FinetuneStage
from pipeline.stages.load import LoadStage
from pipeline.stages.train import TrainStage

if TYPE_CHECKING:
    from pipeline.events import Observer
    from pipeline.recipe import Recipe
    from pipeline.runner import Outcome
    from pipeline.store import Store
    from targets.profile import TargetProfile

_DENSE = ("finetune", "train", "load")


def survey(recipe: Recipe, profile: TargetProfile, store: Store, observer: Observer) -> Facts:
    """The facts of a recipe's model and data.

    Raises:
        EdgepressError: They cannot be loaded, or the dense model cannot be trained.
    """
    plan = compose(recipe, profile, until="build")
    names = [node.name for node in plan.nodes]
    dense = next((name for name in _DENSE if name in names), None)
    outcomes = run_plan(plan.until(dense or "data"), store, observer)
    samples = outcomes["data"].entry.meta["samples"]
    assert isinstance(samples, Mapping)
    train = int(samples.get("train", 0))
    if dense is None:
        return Facts(train_samples=train, groups=0, blocks=0, macs=0)
    groups, blocks = _removable(outcomes[dense], recipe, store)
    return Facts(train_samples=train, groups=groups, blocks=blocks, macs=int(str(outcomes[dense].entry.meta["macs"])))


def _removable(dense: Outcome, recipe: Recipe, store: Store) -> tuple[int, int]:
    """Groups of channels, and residual blocks, that may go."""
    from pipeline.artifacts import TorchModel
    from pipeline.depth import find_blocks
    from pipeline.pruning import find_groups
    from pipeline.torchmodel import load_model

    with store.session(), store.scratch() as work:
        folder = work / "dense"
        store.materialize(dense.entry, folder)
        model = artifact_of(dense, folder)
        assert isinstance(model, TorchModel)
        stage = dense.node.stage
        assert isinstance(stage, LoadStage | TrainStage | FinetuneStage)
        graph, _, _ = load_model(model, stage.factory, recipe.seed)
        return len(find_groups(graph).groups), len(find_blocks(graph))
