"""What is searched where the recipe does not say: the sections worth adding, their keys worth varying, and how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pipeline.recipe.distillation import DistillSection
from pipeline.recipe.lessons import UNLABELLED
from pipeline.recipe.pruning import TARGETS
from pipeline.recipe.searching import Range
from pipeline.search.finals import is_shortened
from pipeline.search.space import OFF
from pipeline.stages.latency_table import TIMED_ENGINES

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from targets.profile import TargetProfile

_SHARES: Final = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
_DEPTH: Final = (0.2, 0.4)
_ONE_ROUND: Final = {"rounds": 1, "budget_s": 8.0}  # the target itself varies: that it is met to 5 % is no matter
_SEEN: Final = 400_000  # training samples that a distillation sees in all, if that makes a sensible number of epochs
_EPOCHS: Final = (8, 40)
_MACS_A_SECOND: Final = 1e10  # of training, forward and backward, on a core or two: an order of magnitude is enough
_LONG_S: Final = 60.0  # a training of that length is worth screening by a shorter one
_SHORTER: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a default space depends on.

    Attributes:
        train_samples: Of the train split; 0 without one.
        groups: Groups of channels that may be removed.
        blocks: Residual blocks that may be dropped.
        macs: Multiply-accumulates of one sample; 0 for an ONNX file, which is not trained.
    """

    train_samples: int
    groups: int
    blocks: int
    macs: int


def prepared(recipe: Recipe, profile: TargetProfile, facts: Facts) -> Recipe:
    """The recipe with a space to search: a recipe with nothing but a budget gets all that may pay.

    What chooses itself in every candidate is left alone: engines and precisions compete in each trial's campaign, and
    the quantiser's ``auto`` picks ranges, algorithms and layers that go back to float on held-back samples.

    Args:
        recipe: With ``[search]``.
        profile: The target.
        facts: Of its model and data.
    """
    assert recipe.search is not None
    if recipe.search.space:
        return recipe
    space = {**_prune(recipe, profile, facts), **_depth(recipe, facts)}
    epochs = None
    if facts.train_samples and facts.macs and (space or recipe.distill is not None):
        space |= {"distill.alpha": [0.1, 0.3, 0.6], "distill.temperature": [2.0, 4.0, 8.0]}
        epochs = recipe.distill.epochs if recipe.distill else _epochs(facts)
    if not space and "int8" in profile.choices()[""].quantization.precisions:
        space = {"quantize.method": ["auto", "mse", "entropy", "percentile"]}
    screening = _screening(recipe, facts, epochs)
    section = recipe.search.model_copy(update={"space": space, "screening": screening})
    distill = recipe.distill or (DistillSection(epochs=epochs) if epochs else None)
    return recipe.model_copy(update={"search": section} | ({} if distill is None else {"distill": distill}))


def _prune(recipe: Recipe, profile: TargetProfile, facts: Facts) -> dict[str, Any]:
    """How much is removed, by which measure, and how channels are ranked."""
    if not facts.groups or (recipe.prune is None and not facts.train_samples):
        return {}  # without samples to train on afterwards a cut net is a lost one
    asked = next((key for key in TARGETS if recipe.prune and getattr(recipe.prune, key) is not None), None)
    key = asked or _measure(recipe, profile)
    space: dict[str, Any] = {f"prune.{key}": _amounts(recipe, key, may_be_off=asked is None)}
    if asked is None and key == "latency_ratio":
        space["prune.latency"] = [_ONE_ROUND]
    space["prune.criterion"] = _criteria(recipe, facts)
    if key not in {"latency_ratio", "latency_ms"}:  # those are allocated over the whole net anyway
        space["prune.scope"] = ["local", "global"]
    return space


def _measure(recipe: Recipe, profile: TargetProfile) -> str:
    """Measured latency where it is asked for and can be; else what comes nearest to the first objective."""
    assert recipe.search is not None
    timed = profile.choices()[""].engine.name in TIMED_ENGINES and recipe.benchmark.measure
    budget = recipe.budget
    by_latency = recipe.search.objectives[0] == "latency" or budget.latency_ms or budget.latency_ratio
    if timed and by_latency:
        return "latency_ratio"
    return "parameters_ratio" if recipe.search.objectives[0] == "size" or budget.size_mb else "macs_ratio"


def _amounts(recipe: Recipe, key: str, *, may_be_off: bool) -> Range | list[Any]:
    """A range around what the recipe says where that is absolute; shares else."""
    if key == "ratio":
        return Range(low=0.1, high=0.7, step=0.05)
    if key in {"size_mb", "latency_ms"}:
        given = float(getattr(recipe.prune, key))
        return [given * share for share in (0.8, 1.0, 1.25)]
    return [OFF, *_SHARES] if may_be_off else list(_SHARES)


def _criteria(recipe: Recipe, facts: Facts) -> list[str]:
    """Those that see the loss only where there are labels to compute it from."""
    labelled = facts.train_samples and recipe.task not in UNLABELLED
    return ["second_order", "taylor", "l2"] if labelled else ["l2", "fpgm"]


def _depth(recipe: Recipe, facts: Facts) -> dict[str, Any]:
    if not facts.blocks or not facts.train_samples:
        return {}
    if recipe.depth is not None and recipe.depth.blocks is not None:
        return {"depth.blocks": sorted({max(1, recipe.depth.blocks + step) for step in (-1, 0, 1)})}
    possible = [share for share in _DEPTH if round(share * facts.blocks) >= 1]
    return {"depth.share": [*([OFF] if recipe.depth is None else []), *possible]} if possible else {}


def _epochs(facts: Facts) -> int:
    least, most = _EPOCHS
    return max(least, min(most, round(_SEEN / facts.train_samples)))


def _screening(recipe: Recipe, facts: Facts, epochs: int | None) -> dict[str, Any]:
    """The recipe's own; where training is long and it says nothing of it, also fewer epochs."""
    assert recipe.search is not None
    given = dict(recipe.search.screening)
    if epochs is None or is_shortened(recipe.search):
        return given
    takes_s = 3 * facts.macs * facts.train_samples * epochs / _MACS_A_SECOND
    return {**given, "distill.epochs": max(1, epochs // _SHORTER)} if takes_s > _LONG_S else given
