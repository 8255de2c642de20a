"""The reference of recipe keys is whole, and the page in docs is it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from pipeline.assist.reference import recipe_reference
from pipeline.recipe import Recipe

PAGE = Path(__file__).parents[4] / "docs" / "recipe.md"


def test_every_key_of_every_section_is_there() -> None:
    """Promise: no key is missing, whatever section it is in."""
    page = recipe_reference()
    for name, field in Recipe.model_fields.items():
        if name == "folder":
            continue
        kinds = [
            kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(kind, type)
        ]
        sections = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if not sections:
            assert f"| `{name}` |" in page
        for section in sections:
            part = page.partition(f"## `[{name}]`")[2]
            assert part, name
            for key in section.model_fields:
                assert f"| `{key}` |" in part or f"## `[{name}.{key}]`" in part, f"{name}.{key}"


def test_the_page_in_docs_is_what_the_schema_says() -> None:
    """Promise: docs/recipe.md is never out of date: `edgepress schema recipe --format md > docs/recipe.md`."""
    assert PAGE.read_text(encoding="utf-8") == recipe_reference()
