"""The torch part of a plan: the dense model, one link for each section that changes it, and the export to ONNX.

dense -> [surgery] -> [depth] -> [prune] -> [sparsify] -> [distill]: each is optional and takes the model before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from pipeline.plan import Node, Source
from pipeline.stages.depth import DepthStage
from pipeline.stages.export import ExportStage
from pipeline.stages.load import LoadStage
from pipeline.stages.prune import PruneStage
from pipeline.stages.train import TrainStage
from pipeline.teaching import Lesson

if TYPE_CHECKING:
    from pipeline.data.source import DataSource, FileRef
    from pipeline.recipe import Recipe
    from pipeline.stages.base import Stage
    from pipeline.tasks import Task
    from pipeline.teaching import People
    from pipeline.usercode import FactoryRef
    from targets.profile import TargetProfile


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What every link is made of.

    Attributes:
        recipe: Which links there are.
        profile: What pays on the target.
        data: The user's data.
        task: What the model is for.
        factory: Makes the user's model.
        weights: Its trained weights; None where the recipe trains it.
        people: Other teachers, and another student, of a distillation.
    """

    recipe: Recipe
    profile: TargetProfile
    data: DataSource
    task: Task
    factory: FactoryRef
    weights: FileRef | None
    people: People

    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in order; the last is ``export``, with ``export:dense`` before it where anything was changed."""
        found = [self._dense()]
        dense = found[0].name
        for link in (self._depth, self._prune):
            node = link(dense, found[-1].name)
            found += [node] if node else []
        factory = self.factory
        if self.recipe.distill is not None:
            lesson = Lesson(people=self.people, distill=self.recipe.distill, common=self._common())
            found += lesson.nodes(dense, found[-1].name)
            factory = lesson.factory
        last = found[-1].name
        if last != dense:
            whole = self._export(self.factory)
            found.append(_node("export:dense", "export the dense model", whole, data="data", model=dense))
        export = self._export(factory)
        return (*found, _node("export", "export to ONNX, compare with torch", export, data="data", model=last))

    def _export(self, factory: FactoryRef) -> ExportStage:
        return ExportStage(factory=factory, source=self.data, export=self.recipe.export, seed=self.recipe.seed)

    def _dense(self) -> Node:
        recipe = self.recipe
        if recipe.train is not None:
            train = TrainStage(**self._common(), train=recipe.train)
            return _node("train", "train the dense model", train, data="data")
        assert self.weights is not None
        load = LoadStage(**self._common(), weights=self.weights)
        return _node("load", "load the dense model", load, data="data")

    def _depth(self, dense: str, before: str) -> Node | None:
        if self.recipe.depth is None:
            return None
        stage = DepthStage(**self._common(), depth=self.recipe.depth)
        return _node("depth", "drop residual blocks", stage, data="data", model=before, dense=dense)

    def _prune(self, dense: str, before: str) -> Node | None:
        if self.recipe.prune is None:
            return None
        stage = PruneStage(
            **self._common(),
            prune=self.recipe.prune,
            channel_alignment=self.profile.pruning.channel_alignment,
        )
        return _node("prune", "remove channels", stage, data="data", model=before, dense=dense)

    def _common(self) -> dict[str, Any]:
        """What every stage that scores a torch model is told."""
        recipe = self.recipe
        return {
            "factory": self.factory,
            "source": self.data,
            "task": self.task,
            "seed": recipe.seed,
            "threads": recipe.threads,
        }


def _node(name: str, title: str, stage: Stage[Any], **inputs: Source) -> Node:
    return Node(name=name, title=title, stage=stage, inputs=inputs)
