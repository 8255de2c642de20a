"""Stages and artifacts as JSON and back, for another process of ours: our own frozen classes by name, and no code."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

_OURS: Final = ("pipeline.", "targets.", "calibration.")


def to_plain(value: object) -> Any:  # noqa: ANN401 - JSON
    """A dataclass, a section of a recipe, or what they are made of, as JSON-able data.

    Raises:
        TypeError: A field has a type that is not known here (our own bug).
    """
    if isinstance(value, BaseModel):
        fields = {name: to_plain(getattr(value, name)) for name in type(value).model_fields}
        return {"class": _name(type(value)), "fields": fields, "given": sorted(value.model_fields_set)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": _name(type(value)), "fields": fields}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return _part(value)


def _part(value: object) -> Any:  # noqa: ANN401 - JSON
    match value:
        case Path():
            return {"path": str(value)}
        case tuple():
            return {"tuple": [to_plain(item) for item in value]}
        case list():
            return [to_plain(item) for item in value]
        case Mapping():
            return {"mapping": [[key, to_plain(item)] for key, item in value.items()]}
    raise TypeError(f"{type(value).__name__} has no plain form")


def from_plain(value: Any) -> Any:  # noqa: ANN401 - whatever it was
    """What `to_plain` described.

    Raises:
        TypeError: It names a class that is not ours.
    """
    match value:
        case list():
            return [from_plain(item) for item in value]
        case {"path": path}:
            return Path(path)
        case {"tuple": items}:
            return tuple(from_plain(item) for item in items)
        case {"mapping": items}:
            return {key: from_plain(item) for key, item in items}
        case {"class": name, "fields": fields}:
            return _made(_class(name), {key: from_plain(item) for key, item in fields.items()}, value.get("given"))
    return value


def _made(kind: type, fields: dict[str, Any], given: list[str] | None) -> Any:  # noqa: ANN401 - of that kind
    if issubclass(kind, BaseModel):
        return kind.model_construct(set(given or ()), **fields)  # it was checked when the recipe was read
    return kind(**fields)


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _class(name: str) -> type:
    module, _, qualified = name.partition(":")
    found = getattr(importlib.import_module(module), qualified, None) if module.startswith(_OURS) else None
    if not isinstance(found, type) or not (dataclasses.is_dataclass(found) or issubclass(found, BaseModel)):
        raise TypeError(f"{name!r} is no configuration of ours")
    return found
