"""Samples that stand in two splits: what a model learned from, or was chosen by, flatters its figures."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset, Split

_PAIRS: Final = (
    ("train", "validation"),
    ("train", "test"),
    ("calibration", "validation"),
    ("calibration", "test"),
    ("validation", "test"),
)
"""First what is learned from or chosen by, then what is judged on."""


def shared_samples(data: Dataset, *, with_labels: bool) -> dict[str, list[tuple[int, int]]]:
    """Samples of equal bytes in two splits, as ``train/test`` to pairs of their numbers; only where there are some.

    Numbers are rows of the file where splits are shares of one (`Split.rows`), else places in the split.

    Args:
        data: The splits.
        with_labels: Whether equal inputs with other labels are another sample.
    """
    hashes = {name: _hashes(split, with_labels=with_labels) for name, split in data.splits.items()}
    found = {}
    for first, second in _PAIRS:
        if first not in hashes or second not in hashes:
            continue
        seen = {digest: at for at, digest in reversed(list(enumerate(hashes[first])))}
        one, other = (_numbers(data.splits[name]) for name in (first, second))
        pairs = [(one[seen[digest]], other[at]) for at, digest in enumerate(hashes[second]) if digest in seen]
        if pairs:
            found[f"{first}/{second}"] = pairs
    return found


def _numbers(split: Split) -> list[int]:
    return [*range(len(split))] if split.rows is None else split.rows.tolist()


def _hashes(split: Split, *, with_labels: bool) -> list[bytes]:
    import numpy as np

    arrays = [split.inputs[name] for name in sorted(split.inputs)]
    if with_labels and split.labels is not None:
        arrays.append(split.labels)
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(len(split))]
    for array in arrays:
        for digest, sample in zip(hashes, array, strict=True):
            digest.update(np.ascontiguousarray(sample).tobytes())
    return [digest.digest() for digest in hashes]
