"""data: loads the user's data once, checks it, and records what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from pipeline.artifacts import DatasetInfo
from pipeline.data import DataSource
from pipeline.stages.base import Context, Stage
from pipeline.tasks import Task

if TYPE_CHECKING:
    from pipeline.data import Split


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
    """

    name = "data"
    version = 1
    consumes = DataInputs
    produces = DatasetInfo
    tools: ClassVar[tuple[str, ...]] = ("numpy",)

    source: DataSource
    task: Task
    splits: tuple[str, ...]

    def run(self, src: DataInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``info.json``."""
        del src
        data = context.data.read(self.source)
        for name in self.splits:
            data[name]  # raises for a split that is missing, before any long stage
        facts = self.task.check_labels(data)
        splits = {name: {"samples": len(split), "sha256": split.sha256()} for name, split in data.splits.items()}
        shared = _shared_samples(data.splits["validation"].inputs, data.splits.get("train"))
        if shared:
            text = f"{shared} validation samples are also in the training split"
            context.warn(f"{text}: {self.task.metric} will look better than it is")
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
        return {"samples": {name: split["samples"] for name, split in splits.items()}, "shared_with_train": shared}


def _shared_samples(validation: Mapping[str, Any], train: Split | None) -> int:
    """How many validation samples also stand in the training split, byte for byte."""
    if train is None:
        return 0
    seen = _sample_hashes(train.inputs)
    return sum(digest in seen for digest in _sample_hashes(validation))


def _sample_hashes(inputs: Mapping[str, Any]) -> set[bytes]:
    import hashlib

    import numpy as np

    count = len(next(iter(inputs.values())))
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(count)]
    for name in sorted(inputs):
        array = np.ascontiguousarray(inputs[name])
        for digest, sample in zip(hashes, array, strict=True):
            digest.update(np.ascontiguousarray(sample).data.cast("B"))
    return {digest.digest() for digest in hashes}
