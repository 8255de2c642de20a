"""The torch part of a plan: the dense model, one link for each section that changes it, and the export to ONNX.

dense -> [finetune] -> [surgery] -> [depth] -> [prune] -> [sparsify] -> [distill]: each is optional and takes the model
before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

from pipeline.measuredon import device_name
from pipeline.plan import Node, Source
from pipeline.stages.allocate import AllocateStage
from pipeline.stages.depth import DepthStage
from pipeline.stages.export import ExportStage
from pipeline.stages.finetune import FinetuneStage
from pipeline.stages.latency_table import TIMED_ENGINES, LatencyTableStage
from pipeline.stages.load import LoadStage
from pipeline.stages.prune import PruneStage
from pipeline.stages.sparsify import SparsifyStage
from pipeline.stages.surgery import SurgeryStage
from pipeline.stages.train import TrainStage
from pipeline.teaching import Lesson
from targets.errors import Fault

if TYPE_CHECKING:
    from pipeline.data.source import DataSource, FileRef
    from pipeline.recipe import PruneSection, Recipe
    from pipeline.stages.base import Stage
    from pipeline.tasks import Task
    from pipeline.teaching import Participants
    from pipeline.usercode import FactoryRef
    from targets.profile import TargetProfile


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What every link is made of.

    Attributes:
        recipe: Which links there are.
        profile: What pays on the target.
        measured: The target with the device that is measured.
        data: The user's data.
        task: What the model is for.
        factory: Makes the user's model.
        weights: Its trained weights; None where the recipe trains it.
        participants: Other teachers, and another student, of a distillation.
    """

    recipe: Recipe
    profile: TargetProfile
    measured: TargetProfile
    data: DataSource
    task: Task
    factory: FactoryRef
    weights: FileRef | None
    participants: Participants

    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in order; the last is ``export``, with ``export:dense`` before it where anything was changed."""
        found = [self._dense()]
        if self.recipe.finetune is not None:
            finetune = FinetuneStage(**self._common(), finetune=self.recipe.finetune)
            found.append(_node("finetune", "fine-tune the dense model", finetune, data="data", model=found[0].name))
        dense = found[-1].name
        for link in (self._surgery, self._depth, self._prune, self._sparsify):
            found += link(dense, found[-1].name)
        factory = self.factory
        if self.recipe.distill is not None:
            lesson = Lesson(participants=self.participants, distill=self.recipe.distill, common=self._common())
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
        fresh = tuple(recipe.finetune.fresh) if recipe.finetune else ()
        load = LoadStage(**self._common(), weights=self.weights, fresh=fresh)
        return _node("load", "load the dense model", load, data="data")

    def _surgery(self, dense: str, before: str) -> list[Node]:
        if self.recipe.surgery is None:
            return []
        stage = SurgeryStage(**self._common(), surgery=self.recipe.surgery)
        return [_node("surgery", "change the architecture by hand", stage, data="data", model=before, dense=dense)]

    def _depth(self, dense: str, before: str) -> list[Node]:
        if self.recipe.depth is None:
            return []
        stage = DepthStage(**self._common(), depth=self.recipe.depth)
        return [_node("depth", "drop residual blocks", stage, data="data", model=before, dense=dense)]

    def _prune(self, dense: str, before: str) -> list[Node]:
        prune = self.recipe.prune
        if prune is None:
            return []
        stage = PruneStage(**self._common(), prune=prune, channel_alignment=self.profile.pruning.channel_alignment)
        planned = self._latency(prune, before) if prune.by_latency else []
        plan = tuple(node.name for node in planned[-1:])
        title = "remove channels" if prune.finetune is None else "remove channels, fine-tune"
        return [*planned, _node("prune", title, stage, data="data", model=before, dense=dense, plan=plan)]

    def _latency(self, prune: PruneSection, before: str) -> list[Node]:
        """What widths cost on the target, and those that keep the most at the latency asked for."""
        common = self._common()
        task = common.pop("task")
        measured: dict[str, Any] = {
            "profile": self.measured,
            "precision": shipped_precision(prune, self.measured),
            "opset": self.recipe.export.opset,
            "device": device_name(self.recipe.benchmark, self.measured),
            "fingerprint": "",
        }
        table = LatencyTableStage(
            **common,
            **measured,
            nets=prune.latency.nets,
            protect=tuple(prune.protect),
            statistics=prune.statistics,
        )
        allocate = AllocateStage(**common, **measured, task=task, prune=prune)
        return [
            _node("latency_table", "measure latency at other widths", table, data="data", model=before),
            _node(
                "allocate", "choose widths, measure them", allocate, data="data", model=before, table="latency_table"
            ),
        ]

    def _sparsify(self, dense: str, before: str) -> list[Node]:
        if self.recipe.sparsify is None:
            return []
        stage = SparsifyStage(**self._common(), sparsify=self.recipe.sparsify)
        return [_node("sparsify", "set small weights to zero", stage, data="data", model=before, dense=dense)]

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
    """What a section asks for that cannot pay, or cannot be measured, on the target."""
    return [*_sparsity_faults(recipe, profile), *_latency_faults(recipe, profile)]


def _latency_faults(recipe: Recipe, profile: TargetProfile) -> list[Fault]:
    if recipe.prune is None or not recipe.prune.by_latency:
        return []
    first = profile.choices()[""]
    faults = []
    if first.engine.name not in TIMED_ENGINES:
        what = f"cannot be reached on {profile.name}: {first.engine.name} does not time single layers"
        key = "latency_ms" if recipe.prune.latency_ms is not None else "latency_ratio"
        fix = f"use prune.macs_ratio, or a target whose engine is one of {', '.join(TIMED_ENGINES)}"
        faults.append(Fault(where=f"prune.{key}", what=what, fix=fix))
    if recipe.prune.latency.precision == "int8" and "int8" not in first.quantization.precisions:
        what = f"{profile.name} offers no int8"
        faults.append(Fault(where="prune.latency.precision", what=what, fix='set it to "fp32" or "auto"'))
    return faults


def _sparsity_faults(recipe: Recipe, profile: TargetProfile) -> list[Fault]:
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


def shipped_precision(prune: PruneSection, profile: TargetProfile) -> Literal["fp32", "int8"]:
    """The precision that latency is measured in: int8 where the target offers it and nothing else is asked for."""
    if prune.latency.precision != "auto":
        return prune.latency.precision
    return "int8" if "int8" in profile.choices()[""].quantization.precisions else "fp32"


def _node(name: str, title: str, stage: Stage[Any], **inputs: Source) -> Node:
    return Node(name=name, title=title, stage=stage, inputs=inputs)
