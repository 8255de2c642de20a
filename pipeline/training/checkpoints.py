"""A training on the disk after each epoch: tensors as safetensors, the rest as JSON, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.store.place import OTHER_CACHE
from targets.files import disk_guard, fsync_folder, sha256_bytes, write_new

if TYPE_CHECKING:
    from pathlib import Path

_SCHEMA: Final = 1
_KEPT: Final = 2
_PREFIX: Final = "epoch-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Everything that the rest of a training depends on.

    Attributes:
        epoch: Epochs done.
        tensors: By group and name: ``model.conv1.weight``, ``optimizer.0.momentum_buffer``, ``rng.torch``.
        state: The rest, plain data.
    """

    epoch: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


@final
class Checkpoints:
    """Checkpoints of one training in one folder; the last two are kept.

    Args:
        folder: Private to this training, made if need be: whoever chooses it must take another for another training.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint; killed at any instant, the folder holds it whole or not at all.

        Raises:
            EnvironmentFailure: The disk refused.
        """
        data = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()})
        document = {
            "schema": _SCHEMA,
            "epoch": checkpoint.epoch,
            "sha256": sha256_bytes(data),
            "torch": torch.__version__,
            "state": checkpoint.state,
        }
        text = json.dumps(document, allow_nan=False, sort_keys=True) + "\n"
        final_place = self._place(checkpoint.epoch)
        unfinished = final_place.with_suffix(".unfinished")
        with disk_guard(
            f"writing the checkpoint {final_place}", path=self._folder.parent, size_bytes=len(data), hint=OTHER_CACHE
        ):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for old in (unfinished, final_place):
                shutil.rmtree(old, ignore_errors=True)
            unfinished.mkdir(mode=0o700)
            write_new(unfinished / "tensors.safetensors", data, 0o600)
            write_new(unfinished / "state.json", text.encode(), 0o600)
            fsync_folder(unfinished)
            os.replace(unfinished, final_place)  # noqa: PTH105 - a folder over nothing, in one step
            fsync_folder(self._folder)
            for epoch in self._epochs()[:-_KEPT]:
                shutil.rmtree(self._place(epoch))

    def latest(self) -> Checkpoint | None:
        """The last checkpoint that is whole; None where there is none. One of another torch counts as none."""
        for epoch in reversed(self._epochs()):
            found = _read(self._place(epoch), epoch)
            if found is not None:
                return found
        return None

    def _place(self, epoch: int) -> Path:
        return self._folder / f"{_PREFIX}{epoch:06d}"

    def _epochs(self) -> list[int]:
        names = [path.name.removeprefix(_PREFIX) for path in self._folder.glob(f"{_PREFIX}*")]
        return sorted(int(name) for name in names if name.isdigit())


def _read(folder: Path, epoch: int) -> Checkpoint | None:
    try:
        document = json.loads((folder / "state.json").read_bytes())
        data = (folder / "tensors.safetensors").read_bytes()
        if (document["schema"], document["epoch"], document["torch"]) != (_SCHEMA, epoch, torch.__version__):
            return None
        if document["sha256"] != sha256_bytes(data):
            return None
        return Checkpoint(epoch=epoch, tensors=load(data), state=document["state"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
