"""What a search has found, on the disk: ``search.json`` and the page ``search.html``, whole at every moment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from targets.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.recipe import Recipe
    from pipeline.search.candidates import Tried
    from pipeline.search.proxies import Glance
    from pipeline.search.space import Space
    from pipeline.search.study import Given

SCHEMA: Final = 1
JSON_NAME: Final = "search.json"
PAGE_NAME: Final = "search.html"


def document(
    *,
    recipe: Recipe,
    target: str,
    space: Space,
    tried: Sequence[Tried],
    front: Sequence[Tried],
    leader: Tried | None,
    given_up: Sequence[Given],
    confirmed: Mapping[int, Mapping[str, Any]],
    glances: Mapping[int, Glance],
) -> dict[str, Any]:
    """The content of ``search.json``: the same findings give the same text, whenever they were made."""
    assert recipe.search is not None
    seen = confirmed.get(leader.number) if leader else None
    return {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "target": target,
        "objectives": list(recipe.search.objectives),
        "sampler": recipe.search.sampler,
        "trials_asked": recipe.search.trials,
        "budget": recipe.budget.model_dump(mode="json", exclude_none=True),
        "varied": [variable.key for variable in space],
        "trials": [_row(one, confirmed, glances) for one in tried],
        "given_up": [
            {"number": one.number, "point": dict(one.point), "reason": one.reason, "failed": one.failed}
            for one in given_up
        ],
        "front": [one.number for one in front],
        "best": leader.number if leader else None,
        "best_is_confirmed": seen is not None,
        "met_budget": bool(seen and seen["met_budget"]),
        "binding": [excess.text() for excess in leader.excesses] if leader else [],
        "best_settings": [f"{key}={json.dumps(value)}" for key, value in _settings(leader, seen).items()],
    }


def write_documents(found: Mapping[str, Any], folder: Path) -> None:
    """Writes both files into ``folder``, each atomically."""
    from pipeline.reporting.search_page import render_search

    write_atomic(folder / JSON_NAME, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
    write_atomic(folder / PAGE_NAME, render_search(found).encode())


def _settings(leader: Tried | None, seen: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the leader sets, with what its final changed to end in time."""
    return {} if leader is None else {**leader.point, **((seen or {}).get("settings") or {})}


def _row(one: Tried, confirmed: Mapping[int, Mapping[str, Any]], glances: Mapping[int, Glance]) -> dict[str, Any]:
    return {
        "number": one.number,
        "point": dict(one.point),
        "engine": one.engine.to_json(),
        "feasible": one.feasible,
        "excesses": [excess.text() for excess in one.excesses],
        "before_training": glances[one.number].to_json() if one.number in glances else None,
        "confirmed": dict(confirmed[one.number]) if one.number in confirmed else None,
    }
