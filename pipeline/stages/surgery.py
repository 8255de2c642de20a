"""surgery: changes the architecture as the recipe says, module by module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from pipeline.artifacts import TorchModel
from pipeline.data import DataSource
from pipeline.recipe import SurgerySection
from pipeline.stages.base import Context, Stage
from pipeline.stages.edited import EditInputs, Workpiece
from pipeline.tasks import Task
from pipeline.usercode import FactoryRef
from targets.errors import InputError, faults_error

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from pipeline.edits import Edit
    from pipeline.surgery import Swap

_STATISTICS_SAMPLES: Final = 256


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SurgeryStage(Stage[EditInputs]):
    """Removes parts, then cuts widths, then replaces operators.

    Attributes:
        factory: Makes the model.
        source: The data.
        task: What the model is for.
        surgery: What to change.
        seed: Seed of what the factory draws, and of the samples that statistics are measured on.
        threads: torch threads.
    """

    name = "surgery"
    version = 1
    consumes = EditInputs
    produces = TorchModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    factory: FactoryRef
    source: DataSource
    task: Task
    surgery: SurgerySection
    seed: int
    threads: int

    def run(self, src: EditInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the changed `TorchModel`; returns what was removed, cut and replaced."""
        piece = Workpiece(self, src, context)
        edits, told = self._edits(piece.graph)
        context.progress(0.3, f"changing the model: {len(edits)} edits")
        graph = self._apply(piece, edits)
        context.progress(0.7, "measuring the changed model")
        return {**piece.finish(graph, edits, out), **told}

    def _edits(self, graph: GraphModule) -> tuple[list[Edit], dict[str, Any]]:
        """The edits in order, and what the report says of them.

        Raises:
            InputError: Anything that the recipe names is not there or cannot be (all faults at once).
        """
        from pipeline.edits import Channels, Remove, Replace
        from pipeline.surgery import find_parts, find_swaps, state_widths

        skips, faults = find_parts(graph, self.surgery.remove)
        edits: list[Edit] = [Remove(skips=tuple(skips))] if skips else []
        shallow = edits[0].apply(graph) if edits else graph
        decisions, widths, more = state_widths(shallow, self.surgery.widths)
        faults += more
        if decisions is not None:
            edits.append(Channels(decisions=decisions))
        swaps, more = find_swaps(shallow, self.surgery.replace)
        faults += more
        if faults:
            raise faults_error("[surgery]", faults)
        if swaps:
            edits.append(Replace(swaps=tuple(swaps)))
        if not edits:
            named = ", ".join(self.surgery.widths)
            raise InputError(
                "surgery would change nothing", f"{named} have that width already", "remove [surgery] from the recipe"
            )
        told = {"removed": [skip.block for skip in skips], "widths": widths, "replaced": _replaced(swaps)}
        return edits, told

    def _apply(self, piece: Workpiece, edits: Sequence[Edit]) -> GraphModule:
        """The graph after all edits, new batch norms with the statistics of real samples."""
        import numpy as np
        import torch

        from pipeline.edits import apply_edits
        from pipeline.surgery import measure_statistics

        graph = apply_edits(piece.graph, edits)
        new = {name for name, _ in graph.named_buffers()} - {name for name, _ in piece.graph.named_buffers()}
        if new:
            split = piece.shown
            some = split.take(np.random.default_rng(self.seed).permutation(len(split))[:_STATISTICS_SAMPLES])
            inputs = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in some.inputs.items()}
            measure_statistics(graph, inputs, new)
        return graph


def _replaced(swaps: Sequence[Swap]) -> list[dict[str, Any]]:
    """How many operators of a kind became another."""
    counts = Counter((swap.operator, swap.by) for swap in swaps)
    return [{"operator": operator, "by": by, "count": count} for (operator, by), count in counts.items()]
