"""sparsify: sets the weights of smallest magnitude to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from pipeline.artifacts import TorchModel
from pipeline.data import DataSource
from pipeline.recipe import SparsifySection
from pipeline.stages.base import Context, Stage
from pipeline.stages.edited import EditInputs, Workpiece
from pipeline.tasks import Task
from pipeline.usercode import FactoryRef
from targets.errors import InputError, faults_error

if TYPE_CHECKING:
    from pipeline.sparsity import Weight
    from pipeline.sparsity.weights import Mask


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SparsifyStage(Stage[EditInputs]):
    """Chooses weights by magnitude and zeroes them.

    Attributes:
        factory: Makes the model.
        source: The data.
        task: What the model is for.
        sparsify: Which weights, how many.
        seed: Seed of what the factory draws.
        threads: torch threads.
    """

    name = "sparsify"
    version = 1
    consumes = EditInputs
    produces = TorchModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    factory: FactoryRef
    source: DataSource
    task: Task
    sparsify: SparsifySection
    seed: int
    threads: int

    def run(self, src: EditInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the sparse `TorchModel`; returns each layer's weights and zeros, and the net's."""
        from pipeline.edits import Sparse
        from pipeline.sparsity import find_weights, with_zeros

        piece = Workpiece(self, src, context)
        found = find_weights(piece.graph)
        weights = self._unprotected(found)
        context.progress(0.3, f"choosing among {sum(weight.values.size for weight in weights):,} weights")
        masks = self._masks(weights)
        sparse = with_zeros(piece.graph, masks)
        rows = [_row(weight, masks) for weight in found]
        edit = Sparse(zeros={row["weight"]: row["zeros"] for row in rows if row["weight"] in masks})
        edit.check(sparse)
        context.progress(0.6, "measuring the sparse model")
        results = piece.finish(sparse, [edit], out)
        if self.sparsify.pattern is None:
            context.warn("single zeros make no engine faster: a file compresses better, and that is all")
        total, zeros = sum(row["elements"] for row in rows), sum(row["zeros"] for row in rows)
        return {**results, "sparsity": round(zeros / total, 6), "zeros": rows}

    def _unprotected(self, weights: Sequence[Weight]) -> list[Weight]:
        from pipeline.graph.patterns import covers, unknown_faults

        if faults := unknown_faults(
            "sparsify.protect", self.sparsify.protect, [weight.module for weight in weights], "module with weights"
        ):
            raise faults_error("[sparsify]", faults)
        free = [w for w in weights if not any(covers(pattern, w.module) for pattern in self.sparsify.protect)]
        if not free:
            why = f"all {len(weights)} layers with weights are protected" if weights else "no layer multiplies with any"
            fix = "shorten sparsify.protect, or remove [sparsify]"
            raise InputError("there are no weights to set to zero", why, fix)
        return free

    def _masks(self, weights: Sequence[Weight]) -> dict[str, Mask]:
        from pipeline.sparsity import Pattern, below_threshold, by_pattern, lowest_share

        wanted = self.sparsify
        if wanted.pattern is not None:
            return by_pattern(weights, Pattern.parse(wanted.pattern))
        if wanted.threshold is not None:
            return below_threshold(weights, wanted.threshold)
        assert wanted.ratio is not None
        return lowest_share(weights, wanted.ratio, wanted.scope)


def _row(weight: Weight, masks: Mapping[str, Mask]) -> dict[str, Any]:
    """How sparse a weight is now, the zeros included that it had."""
    import numpy as np

    kept = masks.get(weight.name)
    values = weight.values if kept is None else weight.values * kept
    zeros = int(values.size - np.count_nonzero(values))
    return {"weight": weight.name, "elements": int(values.size), "zeros": zeros, "dense": kept is None}
