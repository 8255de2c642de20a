"""Turns what is wrong with a TOML file into faults a user can act on."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from targets.errors import Fault, InputError, nearest

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
        raise InputError(
            f"cannot read {subject} {path}", error.strerror or str(error), "check the path and its permissions"
        ) from error
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
    where = ".".join(str(part) for part in item["loc"])
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        parent = ".".join(str(part) for part in item["loc"][:-1])
        table = f"[{parent}]" if parent else "the top level"
        fix = f"remove it from {table}, or {_near_key(item['loc'], model)}"
        return Fault(where=where, what="there is no such key", fix=fix)
    if kind == "missing":
        return Fault(where=where, what="is missing", fix=f"add `{item['loc'][-1]} = ...`")
    if kind in {"literal_error", "enum"}:
        return Fault(
            where=where, what=f"{value!r} is not allowed", fix=f"use {context.get('expected', 'an allowed value')}"
        )
    if kind == "model_type":
        return Fault(where=where, what=f"{_short(value)} is no table", fix=f"write a section [{where}] with its keys")
    message = str(item["msg"]).removeprefix("Value error, ")
    return Fault(where=where, what=f"{_short(value)} is not valid", fix=message[:1].lower() + message[1:])


def _near_key(loc: Sequence[str | int], model: type[BaseModel]) -> str:
    current: type[BaseModel] | None = model
    for part in loc[:-1]:
        current = _submodel(current, str(part)) if current else None
    return nearest(str(loc[-1]), current.model_fields) if current else "check its spelling"


def _submodel(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    info = model.model_fields.get(field)
    if info is None:
        return None
    for candidate in (info.annotation, *get_args(info.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
