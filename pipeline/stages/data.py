"""data: loads the user's data once, checks it, and records what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, final

from pipeline.artifacts import DatasetInfo
from pipeline.data import DataSource
from pipeline.stages.base import Context, Stage
from pipeline.tasks import Task
from targets.errors import InputError
from targets.words import counted

if TYPE_CHECKING:
    from pipeline.data import Dataset

_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInputs:
    """Nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataStage(Stage[DataInputs]):
    """Checks every split against the task.

    Attributes:
        source: Where the data comes from.
        task: What the model is for.
        splits: Names of the splits that later stages need.
        duplicates: Whether samples in two splits are an error.
    """

    name = "data"
    version = 2
    consumes = DataInputs
    produces = DatasetInfo
    tools: ClassVar[tuple[str, ...]] = ("numpy",)

    source: DataSource
    task: Task
    splits: tuple[str, ...]
    duplicates: Literal["refuse", "allow"] = "refuse"

    def run(self, src: DataInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``info.json``."""
        del src
        data = context.data.read(self.source)
        for name in self.splits:
            data[name]  # raises for a split that is missing, before any long stage
        facts = self.task.check_labels(data)
        splits = {name: {"samples": len(split), "sha256": split.sha256()} for name, split in data.splits.items()}
        shared = self._shared(data, context)
        info = {
            "schema": 1,
            "splits": splits,
            "inputs": {
                name: {"dtype": array.dtype.name, "shape": list(array.shape[1:])}
                for name, array in data["validation"].inputs.items()
            },
            **facts,
        }
        (out / "info.json").write_text(json.dumps(info, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return {"samples": {name: split["samples"] for name, split in splits.items()}, "shared": shared}

    def _shared(self, data: Dataset, context: Context) -> dict[str, int]:
        """How many samples two splits share, as ``train/test`` to their number.

        Raises:
            InputError: There are some, and the recipe does not allow it.
        """
        from pipeline.data.leaks import shared_samples

        found = shared_samples(data, with_labels=self.task.asks_again)
        for pair, samples in found.items():
            first, second = pair.split("/")
            named = ", ".join(f"{first} {a} = {second} {b}" for a, b in samples[:_NAMED])
            more = f" and {len(samples) - _NAMED} more" if len(samples) > _NAMED else ""
            what = f"split {first!r} holds {counted(len(samples), 'sample')} of {second!r} too"
            if self.duplicates == "refuse":
                raise InputError(
                    what,
                    f"{named}{more} (counted from 0): {self.task.metric} would look better than it is",
                    f'leave them out of {first!r}, or set data.duplicates = "allow" to be warned only',
                )
            context.warn(f"{what} ({named}{more}): {self.task.metric} will look better than it is")
        return {pair: len(samples) for pair, samples in found.items()}
