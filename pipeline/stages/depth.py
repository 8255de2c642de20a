"""depth: drops the residual blocks whose removal costs least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from pipeline.artifacts import TorchModel
from pipeline.data import DataSource
from pipeline.recipe import DepthSection
from pipeline.stages.base import Context, Stage
from pipeline.stages.edited import EditInputs, Workpiece
from pipeline.tasks import Task
from pipeline.usercode import FactoryRef

if TYPE_CHECKING:
    from pipeline.data import Split
    from pipeline.depth import Judged
    from pipeline.depth.cost import Cost, Meter


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DepthStage(Stage[EditInputs]):
    """Finds residual blocks, measures the model without each, drops.

    Attributes:
        factory: Makes the model.
        source: The data.
        task: What the model is for.
        depth: How many, and which stay.
        seed: Seed of what the factory draws, and of the choice of samples.
        threads: torch threads.
    """

    name = "depth"
    version = 1
    consumes = EditInputs
    produces = TorchModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    factory: FactoryRef
    source: DataSource
    task: Task
    depth: DepthSection
    seed: int
    threads: int

    def run(self, src: EditInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the shallower `TorchModel`; returns each block, what it is worth, and whether it went."""
        from pipeline.depth import drop_cheapest, droppable, find_blocks, how_many
        from pipeline.depth.blocks import none_found
        from pipeline.depth.cost import Meter
        from pipeline.edits import Remove

        piece = Workpiece(self, src, context)
        blocks = find_blocks(piece.graph, self.depth.unit)
        if not blocks:
            raise none_found(self.depth.unit)
        free = droppable(blocks, self.depth.protect)
        count = how_many(self.depth.blocks, self.depth.share, free, len(blocks))
        samples = self._samples(piece)
        meter = Meter(piece.graph, samples, self.task, self.threads)
        judged = drop_cheapest(piece.graph, blocks, free, count, meter, context.progress)
        edit = Remove(skips=tuple(one.block.skip for one in judged if one.order is not None))
        results = piece.finish(edit.apply(piece.graph), [edit], out)
        return {**results, "blocks": _told(judged, meter, piece), "cost_samples": len(samples)}

    def _samples(self, piece: Workpiece) -> Split:
        """Training samples in an order without pattern; validation samples where there is no such split."""
        import numpy as np

        split = piece.shown
        return split.take(np.random.default_rng(self.seed).permutation(len(split))[: self.depth.samples])


def _told(judged: Sequence[Judged], meter: Meter, piece: Workpiece) -> list[dict[str, Any]]:
    """One row a block."""
    from pipeline.depth import skipped
    from pipeline.graph import count_macs
    from pipeline.torchmodel import example_inputs

    example = example_inputs(piece.specs)
    whole = count_macs(piece.graph, example)
    return [
        {
            "block": one.block.name,
            "parameters": one.block.parameters,
            "macs": whole - count_macs(skipped(piece.graph, [one.block.skip]), example),
            **_figures("", one.alone, meter.whole),
            "dropped": one.order,
            **_figures("after_", one.after, meter.whole),
        }
        for one in judged
    ]


def _figures(prefix: str, cost: Cost | None, whole: Cost) -> dict[str, float | None]:
    if cost is None:
        return {f"{prefix}loss_change": None, f"{prefix}output_change": None}
    return {
        f"{prefix}loss_change": round(cost.loss - whole.loss, 6) if math.isfinite(cost.loss) else None,
        f"{prefix}output_change": round(cost.change, 6) if math.isfinite(cost.change) else None,
    }
