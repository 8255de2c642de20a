"""prune: removes whole channels by the label graph; the small net computes what the dense one does without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from pipeline.artifacts import DatasetInfo, TorchModel
from pipeline.data import DataSource
from pipeline.recipe import PruneSection
from pipeline.stages.base import Context, Stage
from pipeline.stages.load import size_of
from pipeline.tasks import Task
from pipeline.usercode import FactoryRef

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from pipeline.data import Split
    from pipeline.pruning import Decisions, Group, PruningGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneInputs:
    """The model to prune, the dense one it came from, and the data to score with."""

    data: DatasetInfo
    model: TorchModel
    dense: TorchModel


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PruneStage(Stage[PruneInputs]):
    """Scores, decides, removes.

    Attributes:
        factory: Makes the model.
        source: The data.
        task: What the model is for.
        prune: What to remove.
        channel_alignment: Widths that pay on the target are multiples of this.
        seed: Seed of what the factory draws.
        threads: torch threads.
    """

    name = "prune"
    version = 2
    consumes = PruneInputs
    produces = TorchModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    factory: FactoryRef
    source: DataSource
    task: Task
    prune: PruneSection
    channel_alignment: int
    seed: int
    threads: int

    def run(self, src: PruneInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the small `TorchModel`; returns channel widths before and after, and what stayed whole and why."""
        from pipeline.edits import Channels
        from pipeline.pruning import CRITERIA, apply_decisions, choose_by_ratio, find_groups, mask_decisions
        from pipeline.torchmodel import load_model, save_model
        from pipeline.training import predict

        model, specs, edits = load_model(src.model, self.factory, self.seed)
        context.progress(0.3, "finding channels that live and die together")
        graph = find_groups(model, statistics=self.prune.statistics)
        criterion = CRITERIA[self.prune.criterion]
        scores = {group.name: criterion.score(model, group) for group in graph.groups}
        decisions = choose_by_ratio(
            graph,
            scores,
            ratio=self.prune.ratio,
            alignment=self.channel_alignment,
            protect=self.prune.protect,
            scope=self.prune.scope,
        )
        context.progress(0.6, "removing channels")
        small = apply_decisions(model, decisions)
        data = context.data.checked(self.source, src.data)
        split = data["validation"].bound(tuple(spec.name for spec in specs))
        _check_promise(small, mask_decisions(model, decisions), split.take(slice(0, 8)))
        outputs = predict(small, split, threads=self.threads)
        reference = predict(self._dense(src, model), split, threads=self.threads)
        save_model(out, small, specs, (*edits, Channels(decisions=decisions)))
        return {
            **self.task.named(self.task.score(outputs, split.labels, reference)),
            **size_of(small, specs),
            "widths": _widths(graph, decisions),
            "frozen": [asdict(item) for item in graph.frozen],
        }

    def _dense(self, src: PruneInputs, model: GraphModule) -> GraphModule:
        """What fidelity is told against: the model itself where nothing was edited before."""
        from pipeline.torchmodel import load_model

        return model if src.model.digest == src.dense.digest else load_model(src.dense, self.factory, self.seed)[0]


def _check_promise(small: GraphModule, masked: GraphModule, split: Split) -> None:
    """The small net equals the dense net with the removed channels' consumers at zero, on real samples."""
    import numpy as np

    from pipeline.training import predict

    for found, wanted in zip(predict(small, split, threads=1), predict(masked, split, threads=1), strict=True):
        worst = float(np.abs(found.astype(np.float64) - wanted).max())
        scale = max(1e-6, float(np.abs(wanted).max()))
        if not worst <= 1e-3 * scale:
            raise AssertionError(
                f"the pruned net differs from the masked dense net by {worst:.3g} on outputs up to {scale:.3g}"
            )


def _widths(graph: PruningGraph, decisions: Decisions) -> list[dict[str, Any]]:
    """Units of each group before and after."""
    return [
        {"group": group.name, "before": group.size, "after": _kept_units(group, decisions)} for group in graph.groups
    ]


def _kept_units(group: Group, decisions: Decisions) -> int:
    """How many of the group's units are left: counted on any one axis that they occupy."""
    member = group.members[0]
    kept = decisions.parameters.get(member.parameter, {}).get(member.axis)
    if kept is None:
        return group.size
    units = member.units[list(kept.kept)]
    return len(set(units[units >= 0].tolist()))
