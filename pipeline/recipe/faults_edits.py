"""What is wrong in the sections that change the model: keys of which exactly one must be there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from targets.errors import Fault

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from pipeline.recipe.base import Section


def edit_faults(recipe: Recipe) -> list[Fault]:
    """What is wrong within ``[surgery]``, ``[depth]`` and ``[sparsify]``."""
    return [
        *_surgery_faults(recipe),
        *_one_of("depth", recipe.depth, {"blocks": "2", "share": "0.25"}),
        *_one_of("sparsify", recipe.sparsify, {"ratio": "0.8", "threshold": "0.01", "pattern": '"2:4"'}),
        *_scope_faults(recipe),
    ]


def _surgery_faults(recipe: Recipe) -> list[Fault]:
    section = recipe.surgery
    if section is None or section.remove or section.widths or section.replace:
        return []
    fix = 'write remove = ["layer3.2"], a table [surgery.widths], or [[surgery.replace]]'
    return [Fault(where="surgery", what="changes nothing", fix=fix)]


def _scope_faults(recipe: Recipe) -> list[Fault]:
    section = recipe.sparsify
    if section is None or section.ratio is not None or "scope" not in section.model_fields_set:
        return []
    return [Fault(where="sparsify.scope", what="is only for a ratio", fix="remove sparsify.scope")]


def _one_of(name: str, section: Section | None, keys: dict[str, str]) -> list[Fault]:
    """A fault unless exactly one of ``keys`` is given; each comes with an example of its value."""
    given = [key for key in keys if section is not None and getattr(section, key) is not None]
    if section is None or len(given) == 1:
        return []
    examples = " or ".join(f"{key} = {value}" for key, value in keys.items())
    what = f"has {' and '.join(given)}, and needs one of them" if given else "does not say how much goes"
    return [Fault(where=name, what=what, fix=f"write {examples}")]
