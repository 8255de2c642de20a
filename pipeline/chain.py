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
from pipeline.stages.sparsify import SparsifyStage
from pipeline.stages.surgery import SurgeryStage
from pipeline.stages.train import TrainStage
from pipeline.teaching import Lesson
from targets.errors import Fault

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
        for link in (self._surgery, self._depth, self._prune, self._sparsify):
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

    def _surgery(self, dense: str, before: str) -> Node | None:
        if self.recipe.surgery is None:
            return None
        stage = SurgeryStage(**self._common(), surgery=self.recipe.surgery)
        return _node("surgery", "change the architecture by hand", stage, data="data", model=before, dense=dense)

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

    def _sparsify(self, dense: str, before: str) -> Node | None:
        if self.recipe.sparsify is None:
            return None
        stage = SparsifyStage(**self._common(), sparsify=self.recipe.sparsify)
        return _node("sparsify", "set small weights to zero", stage, data="data", model=before, dense=dense)

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


def chain_faults(recipe: Recipe, profile: TargetProfile) -> list[Fault]:
    """What a section asks for that cannot pay on the target."""
    pattern = recipe.sparsify.pattern if recipe.sparsify else None
    engines = [choice.engine for choice in profile.choices().values()]
    known = sorted({known for engine in engines for known in getattr(engine, "sparsity", ())})
    if pattern is None or pattern in known:
        return []
    names = " and ".join(dict.fromkeys(engine.name for engine in engines))
    spared = f"{', '.join(known)} is the only pattern that {names} can skip" if known else f"zeros cost {names} as much"
    what = f"{pattern} makes nothing faster on {profile.name}: {spared}"
    fix = (
        f'write pattern = "{known[0]}"' if known else "remove [sparsify], or use [prune], which removes whole channels"
    )
    return [Fault(where="sparsify.pattern", what=what, fix=fix)]


def _node(name: str, title: str, stage: Stage[Any], **inputs: Source) -> Node:
    return Node(name=name, title=title, stage=stage, inputs=inputs)
