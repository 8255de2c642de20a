"""What earlier runs left in the store that tells of a candidate before it is trained."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline.compose import compose
from pipeline.recipe.pruning import TARGETS
from pipeline.runner import cached_state, run_plan
from pipeline.search.space import OFF, changed
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.events import Observer
    from pipeline.recipe import Recipe
    from pipeline.store import Store
    from targets.profile import TargetProfile


def predicted_ms(
    recipe: Recipe, profile: TargetProfile, store: Store, observer: Observer, cut: Mapping[str, Any]
) -> float | None:
    """Latency of a cut model, by a latency table that any earlier run measured for the same model on this device.

    Args:
        recipe: Of the candidate, whatever its own target of pruning is.
        profile: The target.
        store: Where the table may be; nothing is measured here.
        observer: Is told what happens.
        cut: The results of ``prune``.

    Returns:
        None where there is no such table, or the recipe prunes nothing.
    """
    from pipeline.latency.model import model_from_json

    if recipe.prune is None or "widths" not in cut:
        return None
    try:
        plan = compose(_by_latency(recipe), profile, until="latency_table")
    except InputError:  # the target's engine does not time its layers
        return None
    if cached_state(plan, store)["latency_table"] != "stored":
        return None
    entry = run_plan(plan, store, observer)["latency_table"].entry
    model = model_from_json(json.loads(store.read_bytes(entry, "table.json"))["model"])
    after = {row["group"]: row["after"] for row in cut["widths"]}
    if not set(model.anatomy.whole) <= set(after):
        return None
    return float(model.predict_ms({name: after[name] for name in model.anatomy.whole}))


def _by_latency(recipe: Recipe) -> Recipe:
    """The recipe whose plan measures the table: the table knows no target, so any will do."""
    assert recipe.prune is not None
    prune = recipe.prune.model_dump(mode="python", exclude_unset=True, exclude=set(TARGETS))
    without = changed(recipe, {"distill": OFF, "prune": {**prune, "latency_ratio": 0.5}})
    return without.model_copy(update={"search": recipe.search})
