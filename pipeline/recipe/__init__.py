"""The recipe: what to compress, with which data, down to which budget. Checked as a whole before anything runs."""

from __future__ import annotations

from pipeline.recipe.delivery import BenchmarkSection, BudgetSection, BuildSection, ExportSection
from pipeline.recipe.depth import DepthSection
from pipeline.recipe.distillation import DistillSection
from pipeline.recipe.document import Recipe
from pipeline.recipe.load import load_recipe, recipe_schema
from pipeline.recipe.metrics import MetricsSection
from pipeline.recipe.pruning import PruneSection
from pipeline.recipe.quantization import QuantizeSection
from pipeline.recipe.searching import SearchSection
from pipeline.recipe.source import DataSection, ModelSection
from pipeline.recipe.sparsity import SparsifySection
from pipeline.recipe.surgery import SurgerySection
from pipeline.recipe.training import AugmentSection, FinetuneSection, LearningSection, QatSection, TrainSection

__all__ = [
    "AugmentSection",
    "BenchmarkSection",
    "BudgetSection",
    "BuildSection",
    "DataSection",
    "DepthSection",
    "DistillSection",
    "ExportSection",
    "FinetuneSection",
    "LearningSection",
    "MetricsSection",
    "ModelSection",
    "PruneSection",
    "QatSection",
    "QuantizeSection",
    "Recipe",
    "SearchSection",
    "SparsifySection",
    "SurgerySection",
    "TrainSection",
    "load_recipe",
    "recipe_schema",
]
