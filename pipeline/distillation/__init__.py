"""Learning from a teacher."""

from pipeline.distillation.base import DistillLoss
from pipeline.distillation.features import AttentionTransfer, Hint
from pipeline.distillation.logits import Decoupled, SoftTargets, SquaredError, soft_target_loss
from pipeline.distillation.relations import RelationalAngle, RelationalDistance, SimilarityPreserving

__all__ = [
    "AttentionTransfer",
    "Decoupled",
    "DistillLoss",
    "Hint",
    "RelationalAngle",
    "RelationalDistance",
    "SimilarityPreserving",
    "SoftTargets",
    "SquaredError",
    "soft_target_loss",
]
