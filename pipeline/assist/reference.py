"""The reference of recipe keys as Markdown, made from the schema: docs/recipe.md is this text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipeline.recipe import recipe_schema

_OPENING: Final = """# Recipe reference

Made from the schema by `edgepress schema recipe --format md`; a test keeps it so. Keys without a default must be given
where their table is. Any key can be overridden: `--set prune.ratio=0.5`.
"""
_BOUNDS: Final = (
    ("exclusiveMinimum", "above {}"),
    ("minimum", "at least {}"),
    ("exclusiveMaximum", "below {}"),
    ("maximum", "at most {}"),
)
_NAMES: Final = {"string": "text", "boolean": "yes or no", "integer": "whole number", "number": "number"}

Schema = Mapping[str, Any]


def recipe_reference() -> str:
    """Every key of a recipe: what it may be, its default, what it means."""
    schema = recipe_schema()
    parts = [_OPENING, *_section(schema, schema, "")]
    return "\n".join(parts).rstrip() + "\n"


def _section(root: Schema, section: Schema, path: str) -> Iterator[str]:
    """One table's keys, then the tables in it."""
    if path:
        yield f"## `[{path}]`\n\n{_one_line(section.get('description', ''))}\n"
    else:
        yield "## At the top\n"
    keys = dict(section["properties"])
    tables = {name: inner for name, one in keys.items() if (inner := _table(root, one)) is not None}
    rows = [
        _row(root, name, one, required=name in section.get("required", ()))
        for name, one in keys.items()
        if name not in tables
    ]
    if rows:
        yield "| key | what it may be | default | what it means |\n|---|---|---|---|"
        yield "\n".join(rows) + "\n"
    for name, inner in tables.items():
        yield from _section(root, inner, f"{path}.{name}" if path else name)


def _row(root: Schema, name: str, one: Schema, *, required: bool) -> str:
    default = "" if required else f"`{json.dumps(one.get('default'))}`" if one.get("default") is not None else "none"
    cells = (f"`{name}`", _kind(root, one), default, _one_line(one.get("description", "")))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(root: Schema, one: Schema) -> Schema | None:
    """The section behind a key, if it is one table; lists of tables and free tables are keys."""
    for choice in (one, *one.get("anyOf", ()), *one.get("allOf", ())):
        if "$ref" in choice:
            found: Schema = _resolved(root, choice)
            if found.get("type") == "object" and "properties" in found:
                return found
    return None


def _resolved(root: Schema, one: Schema) -> Schema:
    while "$ref" in one:
        one = root["$defs"][one["$ref"].rpartition("/")[2]]
    return one


def _kind(root: Schema, one: Schema) -> str:
    """What a value may be, in words."""
    one = _resolved(root, one)
    if values := one.get("enum") or ([one["const"]] if "const" in one else []):
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    if choices := one.get("anyOf") or one.get("oneOf"):
        shown = [_kind(root, choice) for choice in choices if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(shown))
    kind = str(one.get("type", "anything"))
    if kind == "array":
        return f"list of {_kind(root, one.get('items', {}))}"
    if kind == "object":
        return _table_kind(root, one)
    bounds = [text.format(one[key]) for key, text in _BOUNDS if key in one]
    return " ".join([_NAMES.get(kind, kind), ", ".join(bounds)]).strip()


def _table_kind(root: Schema, one: Schema) -> str:
    if one.get("properties"):
        return "table of " + ", ".join(f"`{name}`" for name in one["properties"])
    extra = one.get("additionalProperties")
    return f"table of {_kind(root, extra)}" if isinstance(extra, dict) else "table"


def _one_line(text: str) -> str:
    """The first paragraph of a description."""
    return " ".join(text.split("\n\n", maxsplit=1)[0].split())
