"""Learning from a teacher."""

from pipeline.distillation.base import DistillLoss
from pipeline.distillation.build import Curriculum, curriculum
from pipeline.distillation.features import AttentionTransfer, Hint
from pipeline.distillation.lesson import Lesson, Term
from pipeline.distillation.logits import Decoupled, SoftTargets, SquaredError, soft_target_loss
from pipeline.distillation.relations import RelationalAngle, RelationalDistance, SimilarityPreserving
from pipeline.distillation.teachers import GraphTeacher, KeptTeacher, OnnxTeacher, Teacher

__all__ = [
    "AttentionTransfer",
    "Curriculum",
    "Decoupled",
    "DistillLoss",
    "GraphTeacher",
    "Hint",
    "KeptTeacher",
    "Lesson",
    "OnnxTeacher",
    "RelationalAngle",
    "RelationalDistance",
    "SimilarityPreserving",
    "SoftTargets",
    "SquaredError",
    "Teacher",
    "Term",
    "curriculum",
    "soft_target_loss",
]
