"""Learning from a teacher."""

from pipeline.distillation.losses import soft_target_loss

__all__ = ["soft_target_loss"]
