"""The one training loop."""

from pipeline.training.augmentation import Augmentation
from pipeline.training.config import TrainConfig, train_config
from pipeline.training.loop import fit
from pipeline.training.optimizers import ParameterGroup
from pipeline.training.predicting import predict
from pipeline.training.results import EpochResult, StepResult
from pipeline.training.schedules import Schedule
from pipeline.training.scope import Scope
from pipeline.training.stepping import Loss

__all__ = [
    "Augmentation",
    "EpochResult",
    "Loss",
    "ParameterGroup",
    "Schedule",
    "Scope",
    "StepResult",
    "TrainConfig",
    "fit",
    "predict",
    "train_config",
]
