"""The recipe as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from pipeline.recipe.base import Section
from pipeline.recipe.delivery import BenchmarkSection, BudgetSection, BuildSection, ExportSection
from pipeline.recipe.depth import DepthSection
from pipeline.recipe.distillation import DistillSection
from pipeline.recipe.metrics import MetricsSection
from pipeline.recipe.pruning import PruneSection
from pipeline.recipe.quantization import QuantizeSection
from pipeline.recipe.searching import SearchSection
from pipeline.recipe.source import DataSection, ModelSection
from pipeline.recipe.sparsity import SparsifySection
from pipeline.recipe.surgery import SurgerySection
from pipeline.recipe.training import FinetuneSection, LearningSection, TrainSection

EDITS: Final = ("surgery", "depth", "prune", "sparsify")


class Recipe(Section):
    """Everything that one compression is made of.

    Attributes:
        folder: Folder of the recipe's file; relative paths start there. Not part of the file.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    task: Literal["classification", "detection", "segmentation", "regression", "recommendation", "fidelity"]
    metrics: MetricsSection = MetricsSection()
    targets: Annotated[list[str], Field(min_length=1)] = ["host"]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    threads: Annotated[int, Field(ge=1, le=256, description="threads of training and calibration on this machine")] = 2
    model: ModelSection
    data: DataSection
    train: TrainSection | None = None
    finetune: FinetuneSection | None = None
    surgery: SurgerySection | None = None
    depth: DepthSection | None = None
    prune: PruneSection | None = None
    sparsify: SparsifySection | None = None
    distill: DistillSection | None = None
    export: ExportSection = ExportSection()
    quantize: QuantizeSection = QuantizeSection()
    build: BuildSection = BuildSection()
    budget: BudgetSection = BudgetSection()
    benchmark: BenchmarkSection = BenchmarkSection()
    search: SearchSection | None = None
    folder: Annotated[Path, Field(exclude=True, repr=False)] = Path()

    def resolve(self, path: str) -> Path:
        """``path`` of the recipe, relative to the recipe's folder; ``~`` is the user's home."""
        return (self.folder / os.path.expanduser(path)).absolute()  # noqa: PTH111 - pathlib raises for ~nobody

    @property
    def edits(self) -> tuple[str, ...]:
        """Names of the sections that change the model's graph or weights before training, in the order they run."""
        return tuple(name for name in EDITS if getattr(self, name) is not None)

    @property
    def learning(self) -> dict[str, LearningSection]:
        """The sections that train on the train split, by dotted path."""
        sections: dict[str, LearningSection | None] = {
            "train": self.train,
            "finetune": self.finetune,
            "prune.finetune": self.prune.finetune if self.prune else None,
            "distill": self.distill,
        }
        return {name: section for name, section in sections.items() if section is not None}
