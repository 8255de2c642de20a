"""A training on the disk after each epoch: tensors as safetensors, the rest as JSON, whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.store.blobs import open_plain
from pipeline.store.entries import DamageError
from pipeline.store.place import OTHER_CACHE
from targets.files import disk_guard, fsync_folder, remove_tree, sha256_bytes, write_new

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

_SCHEMA: Final = 2
_PREFIX: Final = "epoch-"
_NAME: Final = re.compile(rf"{_PREFIX}([0-9]{{6,9}})")
_SEAL: Final = "seal"
_MAX_STATE_BYTES: Final = 1 << 26


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
        text = _sealed(
            {
                "schema": _SCHEMA,
                "epoch": checkpoint.epoch,
                "sha256": sha256_bytes(data),
                "bytes": len(data),
                "torch": torch.__version__,
                "state": checkpoint.state,
            }
        )
        final_place = self._place(checkpoint.epoch)
        unfinished = final_place.with_suffix(".unfinished")
        with disk_guard(
            f"writing the checkpoint {final_place}", path=self._folder.parent, size_bytes=len(data), hint=OTHER_CACHE
        ):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for old in (unfinished, final_place):
                remove_tree(old)
            unfinished.mkdir(mode=0o700)
            write_new(unfinished / "tensors.safetensors", data, 0o600)
            write_new(unfinished / "state.json", text.encode(), 0o600)
            fsync_folder(unfinished)
            os.replace(unfinished, final_place)  # noqa: PTH105 - a folder over nothing, in one step
            fsync_folder(self._folder)
            self._tidy(checkpoint.epoch)

    def latest(self) -> Checkpoint | None:
        """The last checkpoint that is whole; None where there is none. One of another torch counts as none."""
        for epoch in reversed(self._epochs()):
            try:
                found = _read(self._place(epoch), epoch)
            except _FAULTS as error:
                _log.warning(
                    "the checkpoint of epoch %d is damaged (%s): the one before serves", epoch, error or type(error)
                )
                continue
            if found is not None:
                return found
        return None

    def _place(self, epoch: int) -> Path:
        return self._folder / f"{_PREFIX}{epoch:06d}"

    def _epochs(self) -> list[int]:
        matches = [_NAME.fullmatch(path.name) for path in self._folder.glob(f"{_PREFIX}*")]
        return sorted(int(match[1]) for match in matches if match)

    def _tidy(self, newest: int) -> None:
        """Keeps the newest and the one before it; a later one is of a training that went on from damage."""
        before = [epoch for epoch in self._epochs() if epoch < newest]
        for epoch in self._epochs():
            if epoch not in {newest, *before[-1:]}:
                remove_tree(self._place(epoch))


_FAULTS: Final = (
    DamageError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    SafetensorError,
)


def _sealed(document: Mapping[str, Any]) -> str:
    """The document with a hash of itself."""
    return json.dumps({**document, _SEAL: _seal(document)}, allow_nan=False, sort_keys=True) + "\n"


def _seal(document: Mapping[str, Any]) -> str:
    return sha256_bytes(json.dumps(document, allow_nan=False, sort_keys=True).encode())


def _read(folder: Path, epoch: int) -> Checkpoint | None:
    """The checkpoint in a folder; None for one of another version or torch.

    Raises:
        DamageError: A file is missing, no plain file, or not what was written; what else may be raised is `_FAULTS`.
    """
    document = json.loads(_bytes(folder / "state.json", _MAX_STATE_BYTES))
    if document.get("schema") != _SCHEMA:
        return None
    seal = document.pop(_SEAL, None)
    if seal != _seal(document):
        raise DamageError("its state does not match its checksum")
    if (document["epoch"], document["torch"]) != (epoch, torch.__version__):
        return None
    data = _bytes(folder / "tensors.safetensors", document["bytes"])
    if document["sha256"] != sha256_bytes(data):
        raise DamageError("its tensors do not match their checksum")
    return Checkpoint(epoch=epoch, tensors=load(data), state=document["state"])


def _bytes(path: Path, limit_bytes: int) -> bytes:
    with open_plain(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > limit_bytes:
            raise DamageError(f"{path.name} is larger than what was written")
        return file.read(size_bytes)
