"""What is wrong in the sections that change the model: keys of which exactly one must be there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from targets.errors import Fault

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from pipeline.recipe.base import Section


def edit_faults(recipe: Recipe) -> list[Fault]:
    """What is wrong within ``[depth]``."""
    return _one_of("depth", recipe.depth, {"blocks": "2", "share": "0.25"})


def _one_of(name: str, section: Section | None, keys: dict[str, str]) -> list[Fault]:
    """A fault unless exactly one of ``keys`` is given; each comes with an example of its value."""
    given = [key for key in keys if section is not None and getattr(section, key) is not None]
    if section is None or len(given) == 1:
        return []
    examples = " or ".join(f"{key} = {value}" for key, value in keys.items())
    what = f"has {' and '.join(given)}, and needs one of them" if given else "does not say how much goes"
    return [Fault(where=name, what=what, fix=f"write {examples}")]
