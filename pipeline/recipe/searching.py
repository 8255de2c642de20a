"""`[search]`: what may vary, how candidates are drawn, and for how long."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from pipeline.recipe.base import PositiveFloat, PositiveInt, Section, Share

Objective = Literal["latency", "accuracy", "size", "memory"]
Sampler = Literal["tpe", "gp", "nsga2", "random", "grid"]


class Range(Section):
    """Numbers between two ends: whole numbers where both ends and the step are."""

    low: float | int
    high: float | int
    step: float | int | None = None
    log: bool = False


def _flat(value: object) -> object:
    """Nested tables as dotted keys: ``prune.ratio = [...]`` and ``"prune.ratio" = [...]`` are the same."""
    if not isinstance(value, dict):
        return value
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and not {"low", "high"} & item.keys():
            inner = _flat(item)
            assert isinstance(inner, dict)
            flat |= {f"{key}.{name}": found for name, found in inner.items()}
        else:
            flat[key] = item
    return flat


Variable = Annotated[
    Annotated[Range, Tag("range")] | Annotated[list[Any], Field(min_length=1), Tag("choices")],
    Discriminator(lambda value: "choices" if isinstance(value, list) else "range"),
]


class SearchSection(Section):
    """A search over recipes: every key may vary, stages that two candidates share run once."""

    space: Annotated[
        dict[str, Variable],
        BeforeValidator(_flat),
        Field(
            description="recipe key -> a list of choices, or {low, high, step, log}; of a whole section, the choice "
            '"off" leaves it out. Empty: what varies by default for the sections there are'
        ),
    ] = {}
    trials: Annotated[PositiveInt, Field(description="candidates tried in all, over all workers")] = 30
    time_budget_s: Annotated[
        PositiveFloat | None, Field(description="no further candidate is begun after that long")
    ] = None
    sampler: Annotated[
        Sampler, Field(description="tpe, gp: Bayesian; nsga2: genetic, for several objectives; random; grid: all")
    ] = "tpe"
    objectives: Annotated[
        list[Objective],
        Field(min_length=1, max_length=3, description="what to be good at, the one that decides what ships first"),
    ] = ["latency", "accuracy"]
    startup_trials: Annotated[PositiveInt, Field(description="drawn at random before a model is fitted")] = 8
    screening: Annotated[
        dict[str, Any],
        BeforeValidator(_flat),
        Field(description="recipe keys that differ while candidates are tried, e.g. a shorter benchmark"),
    ] = {"benchmark.mode": "quick", "benchmark.budget_s": 8.0}
    screening_share: Annotated[
        Share, Field(description="where screening trains less: share of time_budget_s for it; the rest is for finals")
    ] = 0.3
    finals: Annotated[
        PositiveInt,
        Field(description="where screening trains less: at most so many candidates are trained in full, in the end"),
    ] = 1
    regain: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of the accuracy lost in screening that full training gives back; learned "
            "from the finals once there are any",
        ),
    ] = 0.5
    proxies: Annotated[
        bool,
        Field(description="give up candidates before any training that smaller cuts have shown to be hopeless"),
    ] = True
