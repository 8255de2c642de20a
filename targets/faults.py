"""Turns what is wrong with a TOML file into faults a user can act on."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from targets.errors import Fault, InputError, did_you_mean, nearest, nearest_path

_MAX_TOML_BYTES = 1 << 20


def read_toml(path: Path, subject: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InputError: It is missing, unreadable, too large or not TOML.
    """
    try:
        if path.stat().st_size > _MAX_TOML_BYTES:
            raise InputError(
                f"{subject} {path} is too large", f"it is over {_MAX_TOML_BYTES} bytes", "give the path of a TOML file"
            )
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        near = nearest_path(path) if isinstance(error, FileNotFoundError) else ""
        fix = near or "check the path and its permissions"
        raise InputError(f"cannot read {subject} {path}", error.strerror or str(error), fix) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{subject} {path} is not TOML",
            str(error),
            "mend the line named; strings need quotes, tables need [brackets]",
        ) from error


def faults_of(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """One fault for each thing pydantic found, with dotted path, value, what is allowed and the nearest name."""
    return [_fault(item, model) for item in error.errors(include_url=False)]


def _fault(item: Mapping[str, Any], model: type[BaseModel]) -> Fault:
    path, parent, found = _path(item["loc"], model)
    where = ".".join(path)
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        table = f"[{'.'.join(path[:-1])}]" if path[1:] else "the top level"
        keys = sorted(parent.model_fields) if parent else []
        near = did_you_mean(path[-1], keys)
        fix = f"remove it from {table}, or {near}" if near else f"remove it from {table}; known: {', '.join(keys)}"
        return Fault(where=where, what="there is no such key", fix=fix)
    if kind == "missing":
        number = isinstance(item["loc"][-1], int)
        return Fault(where=where, what="is missing", fix="give one more value" if number else f"add `{path[-1]} = ...`")
    if kind in {"literal_error", "enum"}:
        expected = str(context.get("expected", "an allowed value"))
        near = did_you_mean(str(value), re.findall(r"'([^']*)'", expected))
        fix = f"{near} It may be {expected}" if near else f"use {expected}"
        return Fault(where=where, what=f"{value!r} is not allowed", fix=fix)
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _no_such_kind(where, found, value, context)
    if kind in {"model_type", "model_attributes_type"}:
        return Fault(where=where, what=f"{_short(value)} is no table", fix=f"write a section [{where}] with its keys")
    message = str(item["msg"]).removeprefix("Value error, ")
    return Fault(where=where, what=f"{_short(value)} is not valid", fix=message[:1].lower() + message[1:])


def _no_such_kind(where: str, annotation: Any, value: object, context: Mapping[str, Any]) -> Fault:  # noqa: ANN401
    """A table whose one key says which kind it is lacks that key, or says what there is not."""
    key = str(context["discriminator"]).strip("'")
    kinds = [choice for member in _members(annotation) for choice in _choices(member, key)]
    if "tag" not in context:
        fix = f'add `{key} = "{kinds[0]}"`' if kinds else f"add `{key} = ...`"
        return Fault(where=f"{where}.{key}", what="is missing", fix=f"{fix}; known: {', '.join(kinds)}")
    given = value.get(key) if isinstance(value, dict) else value
    return Fault(where=f"{where}.{key}", what=f"{_short(given)} is not allowed", fix=nearest(str(given), kinds))


def _path(loc: Sequence[str | int], model: type[BaseModel]) -> tuple[list[str], type[BaseModel] | None, Any]:
    """Where in the file: pydantic's path without the kinds of tables that it adds; the table it is in, and its type."""
    path: list[str] = []
    parent: type[BaseModel] | None = None
    current: Any = model
    for part in loc:
        members = _members(current)
        chosen = [member for member in members if any(part in _choices(member, key) for key in member.model_fields)]
        if len(members) > 1 and len(chosen) == 1:
            current = chosen[0]
            continue
        if not members and part in _tags(current):  # of values that are a text or a list
            continue
        path.append(str(part))
        parent = members[0] if members else None
        current = _inside(current, parent, part)
    return path, parent, current


def _tags(annotation: Any) -> set[str]:  # noqa: ANN401 - an annotation
    """What the members of a union that holds no tables are told apart by."""
    bare = _bare(annotation)
    said = [item for member in get_args(bare) for item in getattr(member, "__metadata__", ())]
    return {item.tag for item in said if isinstance(item, Tag)}


def _inside(annotation: Any, table: type[BaseModel] | None, part: str | int) -> Any:  # noqa: ANN401 - an annotation
    """What stands behind one step of a path."""
    if isinstance(part, int):
        return next(iter(get_args(_bare(annotation))), None)
    field = table.model_fields.get(part) if table else None
    return field.annotation if field else None


def _bare(annotation: Any) -> Any:  # noqa: ANN401 - an annotation
    """The type itself, without what `Annotated` says of it."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _members(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - an annotation
    """The tables that an annotation allows."""
    bare = _bare(annotation)
    candidates = (bare, *(get_args(bare) if get_origin(bare) in {Union, UnionType} else ()))
    return [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]


def _choices(table: type[BaseModel], key: str) -> tuple[Any, ...]:
    """The texts that a key of a table allows, empty where it allows others too."""
    field = table.model_fields.get(key)
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
