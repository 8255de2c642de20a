"""What was kept: the indices of every parameter axis that was cut, readable, diffable and checked when read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from targets.errors import InputError
from targets.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Statistics: TypeAlias = Literal["whole", "leave_out"]

_FIX: Final = "use the decisions that were written for this model, or prune it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Indices kept of one axis.

    Attributes:
        size: Length of the axis before.
        kept: The indices kept, ascending.
    """

    size: int
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Kept indices by parameter (or buffer) name and axis; an axis that is not listed is whole.

    Names, not graph nodes: the same model traced again has the same names.

    Attributes:
        parameters: What is kept.
        statistics: Whether dimensions under a statistic (layer norm, mean, ...) were left whole or pruned.
    """

    parameters: Mapping[str, Mapping[int, Kept]]
    statistics: Statistics = "whole"

    def to_json(self) -> dict[str, object]:
        """As plain data: ``{"parameters": {name: {axis: {"size": n, "kept": [...]}}}, "statistics": ...}``."""
        return {
            "statistics": self.statistics,
            "parameters": {
                name: {str(axis): {"size": k.size, "kept": list(k.kept)} for axis, k in sorted(axes.items())}
                for name, axes in sorted(self.parameters.items())
            },
        }

    def save(self, path: Path) -> None:
        """Write the decisions to a JSON file, whole or not at all."""
        write_atomic(path, (json.dumps(self.to_json(), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Decisions:
        """What `save` wrote.

        Raises:
            InputError: The file cannot be read, or holds no decisions.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"the pruning decisions in {path} cannot be read", f"{error}", _FIX) from error

    @classmethod
    def from_json(cls, data: object) -> Decisions:
        """What `to_json` wrote.

        Raises:
            InputError: The data are not decisions; names the parameter.
        """
        parameters = data.get("parameters") if isinstance(data, dict) else None
        if not isinstance(parameters, dict) or not all(isinstance(axes, dict) for axes in parameters.values()):
            raise InputError("the pruning decisions cannot be read", "there is no table of parameters in them", _FIX)
        return cls(
            parameters={
                str(name): {_axis(name, axis): _kept(name, value) for axis, value in axes.items()}
                for name, axes in parameters.items()
            },
            statistics=_statistics(data.get("statistics", "whole") if isinstance(data, dict) else None),
        )


def _statistics(value: object) -> Statistics:
    for known in get_args(Statistics):
        if value == known:
            found: Statistics = known
            return found
    raise InputError(
        "the pruning decisions cannot be read",
        f"statistics is {value!r}, and can be {' or '.join(get_args(Statistics))}",
        _FIX,
    )


def _axis(name: object, axis: object) -> int:
    if not str(axis).isdigit():
        raise InputError("the pruning decisions cannot be read", f"{name}: {axis!r} is not an axis", _FIX)
    return int(str(axis))


def _kept(name: object, value: object) -> Kept:
    size = value.get("size") if isinstance(value, dict) else None
    kept = value.get("kept") if isinstance(value, dict) else None
    if (
        type(size) is not int
        or not isinstance(kept, list)
        or not kept
        or not all(type(index) is int for index in kept)
        or kept != sorted(set(kept))
        or not 0 <= kept[0] <= kept[-1] < size
    ):
        raise InputError(
            "the pruning decisions cannot be read",
            f"{name}: kept indices must be ascending numbers below the size",
            _FIX,
        )
    return Kept(size=size, kept=tuple(kept))
