"""Splits of a data set in memory, checked on the way in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from targets.errors import InputError, nearest
from targets.words import counted

Array = npt.NDArray[Any]
SPLIT_NAMES: Final = ("train", "calibration", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Samples of one split.

    Attributes:
        inputs: One array per model input, ``(N, ...)`` each.
        labels: ``(N,)`` or ``(N, ...)``; None where the task has none.
        rows: ``(N,)``: the samples' numbers in what was shared out between splits, for messages; None where the source
            makes the splits itself.
    """

    inputs: Mapping[str, Array]
    labels: Array | None
    rows: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, indices: npt.NDArray[np.int64] | slice) -> Split:
        """The samples at ``indices``."""
        return Split(
            inputs={name: array[indices] for name, array in self.inputs.items()},
            labels=None if self.labels is None else self.labels[indices],
            rows=None if self.rows is None else self.rows[indices],
        )

    def bound(self, names: tuple[str, ...]) -> Split:
        """The same samples with inputs called ``names``, in that order; a lone unnamed input takes the first name."""
        if list(self.inputs) == [""]:
            (name,) = names
            return replace(self, inputs={name: self.inputs[""]})
        return replace(self, inputs={name: self.inputs[name] for name in names})

    def batches(self, size: int) -> Iterator[Split]:
        """The samples in order, ``size`` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def sha256(self) -> str:
        """Hash over names, dtypes, shapes and contents."""
        digest = hashlib.sha256()
        arrays = {**self.inputs, **({} if self.labels is None else {"\0labels": self.labels})}
        for name, array in sorted(arrays.items()):
            digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            digest.update(np.ascontiguousarray(array).data.cast("B"))
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Named splits with the same inputs."""

    splits: Mapping[str, Split]

    def __getitem__(self, name: str) -> Split:
        """The split of that name.

        Raises:
            InputError: There is none.
        """
        try:
            return self.splits[name]
        except KeyError:
            raise InputError(
                f"the data has no split {name!r}",
                f"it has {', '.join(self.splits)}",
                "give it one (docs/data.md says how)",
            ) from None

    @property
    def calibration(self) -> Split:
        """The calibration split, else the training split, else the validation split."""
        return next(self.splits[name] for name in ("calibration", "train", "validation") if name in self.splits)


def dataset_from(value: object, *, rows: Mapping[str, npt.NDArray[np.int64]] | None = None) -> Dataset:
    """What a data factory returned, checked: ``{split: (inputs, labels) | inputs}``.

    ``inputs`` is one array, or a mapping from input name to array; a lone array is called ``""`` until the model's
    signature names it.

    Args:
        value: What was returned.
        rows: What each split's samples are called in messages, see `Split.rows`.

    Raises:
        InputError: It is of another form, empty, not finite, or its splits do not fit together.
    """
    if not isinstance(value, Mapping) or not value:
        raise _form_error(f"it is {'empty' if isinstance(value, Mapping) else type(value).__name__}")
    unknown = sorted(str(name) for name in value if name not in SPLIT_NAMES)
    if unknown:
        raise InputError(
            f"the data has a split {unknown[0]!r}",
            f"splits are {', '.join(SPLIT_NAMES)}",
            f"rename it; {nearest(unknown[0], SPLIT_NAMES)}",
        )
    if "validation" not in value:
        raise InputError(
            "the data has no validation split",
            f"it has {', '.join(value)}",
            "give it one (docs/data.md says how)",
        )
    known = rows or {}
    splits = {name: replace(_split(name, value[name]), rows=known.get(name)) for name in SPLIT_NAMES if name in value}
    _check_same_inputs(splits)
    return Dataset(splits=splits)


def _form_error(why: str) -> InputError:
    return InputError(
        "the data is something else than splits of numpy arrays",
        why,
        'return {"train": (x, y), "validation": (x, y), "test": (x, y)} of numpy arrays',
    )


def _split(name: str, value: object) -> Split:
    inputs, labels = value if isinstance(value, tuple) and len(value) == 2 else (value, None)  # noqa: PLR2004 - a pair
    named = inputs if isinstance(inputs, Mapping) else {"": inputs}
    arrays = {str(key): _input(array, f"{name}.{key or 'inputs'}") for key, array in named.items()}
    if not arrays:
        raise _form_error(f"split {name!r} has no inputs")
    checked_labels = None if labels is None else _array(labels, f"{name}.labels")
    lengths = {key or "inputs": len(array) for key, array in arrays.items()}
    if checked_labels is not None:
        lengths["labels"] = len(checked_labels)
    if len(set(lengths.values())) != 1:
        raise InputError(
            f"split {name!r} has arrays of different lengths",
            ", ".join(f"{key}: {length}" for key, length in lengths.items()),
            "give one row per sample in every array",
        )
    if not next(iter(lengths.values())):
        raise InputError(
            f"split {name!r} has no samples",
            "its arrays have length 0",
            "check paths and filters where the data is made",
        )
    return Split(inputs=arrays, labels=checked_labels)


def _input(value: object, where: str) -> Array:
    array = _array(value, where)
    if array.dtype == np.float64:
        raise InputError(f"{where} is float64", "models run in float32", "return it as x.astype(np.float32)")
    if len(array) and not array.size:
        raise InputError(
            f"{where} has samples without values",
            f"its shape is {array.shape}",
            "check how they are cut where the data is made",
        )
    return array


def _array(value: object, where: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise _form_error(f"{where}: {error}") from error
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise _form_error(f"{where} is {type(value).__name__} of dtype {array.dtype}")
    if not array.dtype.isnative:
        raise InputError(
            f"{where} has the byte order of another machine",
            f"its dtype is {array.dtype.str}",
            "return it as x.astype(x.dtype.newbyteorder('='))",
        )
    check_finite(array, where)
    return array


def check_finite(array: Array, where: str) -> None:
    """Refuses NaN and Inf.

    Args:
        array: Samples ``(N, ...)``; integers always pass.
        where: What to call them.

    Raises:
        InputError: A sample holds one; the first is named by its number.
    """
    if array.dtype.kind != "f" or not len(array):
        return
    bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
    if len(bad):
        raise InputError(
            f"{where} has NaN or Inf",
            f"{counted(len(bad), 'sample')}, the first is number {bad[0]}",
            "clean or drop these samples",
        )


def _check_same_inputs(splits: Mapping[str, Split]) -> None:
    (first, reference), *others = splits.items()
    expected = _described(reference)
    for name, split in others:
        if _described(split) != expected:
            raise InputError(
                f"splits {first!r} and {name!r} differ in their inputs",
                f"{first}: {', '.join(expected)}; {name}: {', '.join(_described(split))}",
                "return the same inputs in every split",
            )


def _described(split: Split) -> list[str]:
    return [f"{name or 'inputs'} {array.dtype.name} {array.shape[1:]}" for name, array in sorted(split.inputs.items())]
