"""prune: removes whole channels by the label graph; the small net computes what the dense one does without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from pipeline.artifacts import TorchModel, WidthPlan
from pipeline.data import DataSource
from pipeline.recipe import LearningSection, PruneSection
from pipeline.stages.base import Context, Stage
from pipeline.stages.edited import EditInputs, Workpiece
from pipeline.stages.learning import label_loss, learn
from pipeline.stages.scoring import Scored, score_units
from pipeline.tasks import Task
from pipeline.usercode import FactoryRef
from targets.errors import InputError

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from pipeline.data import Dataset, Split
    from pipeline.edits import Edit
    from pipeline.pruning import Group, PruningGraph
    from pipeline.pruning.widths import Widths
    from pipeline.torchmodel import InputSpec


_STATISTICS_BATCH: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneInputs(EditInputs):
    """The model to prune, and the widths where a latency is asked for."""

    plan: tuple[WidthPlan, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PruneStage(Stage[PruneInputs]):
    """Scores, decides, removes, fine-tunes; in one step or in several.

    Attributes:
        factory: Makes the model.
        source: The data.
        task: What the model is for.
        prune: What to remove.
        channel_alignment: Widths that pay on the target are multiples of this.
        seed: Seed of what the factory draws, of samples and of fine-tuning.
        threads: torch threads.
    """

    name = "prune"
    version = 3
    consumes = PruneInputs
    produces = TorchModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy", "lightning-fabric")

    factory: FactoryRef
    source: DataSource
    task: Task
    prune: PruneSection
    channel_alignment: int
    seed: int
    threads: int

    @property
    def learning(self) -> LearningSection | None:
        """How it trains."""
        return self.prune.finetune

    def run(self, src: PruneInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the small `TorchModel`; returns channel widths before and after, and what stayed whole and why."""
        from pipeline.pruning import find_groups
        from pipeline.pruning.schedule import steps_down

        piece = Workpiece(self, src, context)
        model, specs, data = piece.graph, piece.specs, piece.data
        context.progress(0.0, "finding channels that live and die together")
        graph = find_groups(model, statistics=self.prune.statistics)
        groups = self._groups(graph, src.plan)
        scored = self._score(model, groups, data, specs, context)
        after = self._widths(model, graph, groups, scored, specs, src.plan)
        before = {group.name: group.size for group in groups}
        steps = steps_down(before, after, self.prune.schedule, self.prune.steps)
        edits: list[Edit] = []
        small, told, curve = model, list[dict[str, Any]](), list[dict[str, Any]]()
        for number, widths in enumerate(steps, start=1):
            context.progress((number - 1) / len(steps), f"step {number} of {len(steps)}: removing channels")
            small, edit = self._step(small, widths, scored if number == 1 else None, data, specs, context)
            edits.append(edit)
            told.append({"step": number, "kept_ratio": round(sum(widths.values()) / sum(before.values()), 4)})
            if self.prune.batch_norm_batches:
                self._reestimate(small, data, specs, number)
            told[-1] |= {"before_training": piece.score(small)}
            if self.prune.finetune is not None:
                curve += self._finetune(small, data, specs, context, number, len(steps), len(curve))
                told[-1] |= {"after_training": piece.score(small)}
        return {
            **piece.finish(small, edits, out),
            "widths": [{"group": g.name, "before": g.size, "after": after.get(g.name, g.size)} for g in graph.groups],
            "steps": told,
            **({"curve": curve} if curve else {}),
            "frozen": [asdict(item) for item in graph.frozen],
        }

    def _groups(self, graph: PruningGraph, plan: tuple[WidthPlan, ...]) -> list[Group]:
        """What may be cut: where a latency was asked for, what the plan names."""
        from pipeline.pruning import prunable_groups

        if not plan:
            return prunable_groups(graph, self.prune.protect)
        named = plan[0].read_json("widths.json")
        return [group for group in graph.groups if group.name in named]

    def _score(
        self, gm: GraphModule, groups: list[Group], data: Dataset, specs: tuple[InputSpec, ...], context: Context
    ) -> Scored:
        return score_units(
            gm, groups, self.prune, data=data, names=tuple(spec.name for spec in specs), task=self.task, seed=self.seed,
            on_share=lambda share: context.progress(0.0, f"scoring channels, {share:.0%} of the samples seen"),
        )  # fmt: skip

    def _widths(
        self,
        gm: GraphModule,
        graph: PruningGraph,
        groups: list[Group],
        scored: Scored,
        specs: tuple[InputSpec, ...],
        plan: tuple[WidthPlan, ...],
    ) -> dict[str, int]:
        """Units that each group keeps in the end."""
        from pipeline.pruning import widths_for_ratio, widths_to_fit
        from pipeline.pruning.costs import bytes_of, macs_of, parameters_of
        from pipeline.torchmodel import example_inputs

        if plan:
            found: dict[str, int] = plan[0].read_json("widths.json")
            return found
        wanted, alignment, scope = self.prune, self.channel_alignment, self.prune.scope
        if wanted.ratio is not None:
            return widths_for_ratio(groups, scored.compared, ratio=wanted.ratio, alignment=alignment, scope=scope)
        whole = {group.name: group.size for group in groups}
        if wanted.macs_ratio is not None:
            cost, what = macs_of(gm, graph, example_inputs(specs)), "multiply-accumulates"
            limit = wanted.macs_ratio * cost(whole)
        elif wanted.parameters_ratio is not None:
            cost, what = parameters_of(gm, graph), "parameters"
            limit = wanted.parameters_ratio * cost(whole)
        else:
            assert wanted.size_mb is not None
            cost, what, limit = bytes_of(gm, graph), "bytes of weights", wanted.size_mb * 1e6
        return widths_to_fit(
            groups, scored.compared, cost=cost, limit=limit, what=what, alignment=alignment, scope=scope
        )

    def _step(
        self,
        gm: GraphModule,
        widths: Widths,
        scored: Scored | None,
        data: Dataset,
        specs: tuple[InputSpec, ...],
        context: Context,
    ) -> tuple[GraphModule, Edit]:
        """The graph with these widths, and the edit that made it of ``gm``, whose units are scored anew."""
        from pipeline.edits import Channels
        from pipeline.pruning import apply_decisions, find_groups, mask_decisions, remove_lowest

        graph = find_groups(gm, statistics=self.prune.statistics)
        groups = [group for group in graph.groups if group.name in widths]
        scores = (scored or self._score(gm, groups, data, specs, context)).scores
        decisions = remove_lowest(graph, scores, {group.name: widths[group.name] for group in groups})
        small = apply_decisions(gm, decisions)
        few = data["validation"].bound(tuple(spec.name for spec in specs)).take(slice(0, 8))
        _check_promise(small, mask_decisions(gm, decisions), few)
        return small, Channels(decisions=decisions)

    def _finetune(
        self,
        gm: GraphModule,
        data: Dataset,
        specs: tuple[InputSpec, ...],
        context: Context,
        step: int,
        steps: int,
        seen: int,
    ) -> list[dict[str, Any]]:
        """Trains the graph in place; its learning curve goes on from the epochs seen so far."""
        assert self.prune.finetune is not None
        section = self.prune.finetune
        learned = learn(
            gm,
            label_loss(self.task, section),
            section,
            data=data,
            names=tuple(spec.name for spec in specs),
            task=self.task,
            seed=self.seed + step,
            threads=self.threads,
            context=context,
            part=f"step-{step}",
            name=f"step {step} of {steps}, ",
            share=((step - 1) / steps, step / steps),
        )
        return [{**row, "epoch": row["epoch"] + seen} for row in learned["curve"]]

    def _reestimate(self, gm: GraphModule, data: Dataset, specs: tuple[InputSpec, ...], step: int) -> None:
        """Gathers the statistics of batch normalisation again, of what the smaller layers give."""
        from pipeline.training import reestimate_batch_norm

        reestimate_batch_norm(
            gm,
            data["train"].bound(tuple(spec.name for spec in specs)),
            batches=self.prune.batch_norm_batches,
            batch_size=_STATISTICS_BATCH,
            seed=self.seed + step,
            threads=self.threads,
        )

    def verify(self, src: PruneInputs, out: Path, results: Mapping[str, Any]) -> None:
        """Refuses a net from which nothing was removed."""
        del src, out
        if all(row["after"] == row["before"] for row in results["widths"]):
            raise InputError(
                "pruning would remove nothing",
                "every group of channels keeps its width",
                "ask for a smaller net, or remove [prune] from the recipe",
            )


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
