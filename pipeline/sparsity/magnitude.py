"""Magnitude pruning: the smallest weights become zero.

Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, section 3.1; a share of
all weights of the net, or of each layer: compared by Gale et al., The State of Sparsity in Deep Neural Networks, 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from pipeline.sparsity.weights import Mask, Weight, together
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Scope: TypeAlias = Literal["global", "local"]


def below_threshold(weights: Sequence[Weight], threshold: float) -> dict[str, Mask]:
    """Masks that drop every weight of a magnitude below ``threshold``.

    Raises:
        InputError: There is none, or a whole layer would go.
    """
    masks = {weight.name: np.abs(weight.values) >= threshold for weight in weights}
    if all(mask.all() for mask in masks.values()):
        least, half = np.quantile(np.concatenate([np.abs(w.values).ravel() for w in weights]), [0, 0.5])
        raise InputError(
            "sparsify would set nothing to zero",
            f"no weight is below sparsify.threshold = {threshold:g}: the smallest is {least:.3g}",
            f"raise it; half of all weights are below {half:.3g}",
        )
    return _checked(masks, f"threshold = {threshold:g}", "lower sparsify.threshold")


def lowest_share(weights: Sequence[Weight], ratio: float, scope: Scope) -> dict[str, Mask]:
    """Masks that drop the smallest weights: ``ratio`` of all of them, or of each layer; of equal ones the first.

    Raises:
        InputError: That share is less than one weight, or a whole layer would go.
    """
    if scope == "local":
        masks = {w.name: _kept(np.abs(w.values).ravel(), ratio).reshape(w.values.shape) for w in weights}
    else:
        kept = _kept(np.concatenate([np.abs(weight.values).ravel() for weight in weights]), ratio)
        masks = {weight.name: kept[place].reshape(weight.values.shape) for weight, place in together(weights)}
    if all(mask.all() for mask in masks.values()):
        raise InputError(
            "sparsify would set nothing to zero",
            f"sparsify.ratio = {ratio:g} of {max(w.values.size for w in weights)} weights is less than one",
            "raise sparsify.ratio",
        )
    fix = "lower sparsify.ratio" + (', or write scope = "local"' if scope == "global" else "")
    return _checked(masks, f"ratio = {ratio:g}", fix)


def _kept(magnitudes: NDArray[np.float32], ratio: float) -> NDArray[np.bool_]:
    """All but the ``ratio`` smallest, exactly so many."""
    count = round(ratio * len(magnitudes))
    if count == 0:
        return np.ones(len(magnitudes), dtype=bool)
    last = np.partition(magnitudes, count - 1)[count - 1]
    kept: NDArray[np.bool_] = magnitudes > last
    equal = np.flatnonzero(magnitudes == last)
    kept[equal[count - np.count_nonzero(magnitudes < last) :]] = True
    return kept


def _checked(masks: dict[str, Mask], asked: str, fix: str) -> dict[str, Mask]:
    """Masks that leave something of every layer."""
    empty = [name for name, mask in masks.items() if not mask.any()]
    if empty:
        raise InputError(
            "sparsify would leave nothing of a layer",
            f"all weights of {', '.join(map(repr, empty[:3]))}{' and others' if len(empty) > 3 else ''} go "  # noqa: PLR2004
            f"with sparsify.{asked}",
            f"{fix}, or name that layer in sparsify.protect",
        )
    return masks
