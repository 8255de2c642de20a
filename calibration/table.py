"""The calibration table: measured ranges on disk, bound by hash to the model and the data they were measured on."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SCHEMA: Final = 1
Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationTable:
    """Ranges of activations.

    Attributes:
        tensors: ``{tensor: {method: (low, high)}}``.
        samples: How many samples were seen.
        model_sha256: Hash of the float ONNX file.
        data_sha256: Content hash of the samples.
        versions: Tool name to version.
    """

    tensors: Mapping[str, Mapping[str, Range]]
    samples: int
    model_sha256: str
    data_sha256: str
    versions: Mapping[str, str]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods every tensor has a range of, in table order."""
        return tuple(next(iter(self.tensors.values())))

    def ranges(self, method: str) -> dict[str, Range]:
        """All ranges of one method.

        Raises:
            InputError: The table was made without it.
        """
        if method not in self.methods:
            raise InputError(
                f"the calibration table has no ranges of method {method!r}",
                f"it has {', '.join(self.methods)}",
                "collect again with that method, or choose one of these",
            )
        return {name: ranges[method] for name, ranges in self.tensors.items()}

    def check_model(self, sha256: str) -> None:
        """Refuses any model but the one that was measured.

        Raises:
            InputError: The hashes differ.
        """
        if sha256 != self.model_sha256:
            raise InputError(
                "the calibration table belongs to another model",
                f"it was measured on sha256 {self.model_sha256[:12]}, this file is {sha256[:12]}",
                "collect ranges again on this model",
            )

    def save(self, path: Path) -> None:
        """Writes the table as JSON; the same table gives the same bytes."""
        path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, sort_keys=True) + "\n", "utf-8")

    @staticmethod
    def load(path: Path) -> CalibrationTable:
        """The table in a file.

        Raises:
            InputError: The file is missing or holds no valid table.
        """
        try:
            return _from_json(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} holds no calibration table", f"{type(error).__name__}: {error}", "collect the ranges again"
            ) from error


def _from_json(data: Mapping[str, Any]) -> CalibrationTable:
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']}, known is {SCHEMA}")
    return CalibrationTable(
        tensors={
            str(name): {str(method): _range(pair) for method, pair in ranges.items()}
            for name, ranges in data["tensors"].items()
        },
        samples=int(data["samples"]),
        model_sha256=str(data["model_sha256"]),
        data_sha256=str(data["data_sha256"]),
        versions={str(name): str(version) for name, version in data["versions"].items()},
    )


def _range(pair: Sequence[float]) -> Range:
    low, high = (float(end) for end in pair)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"[{low}, {high}] is no range")
    return low, high
