"""The one training loop."""

from pipeline.training.augmentation import Augmentation
from pipeline.training.batches import steps_in
from pipeline.training.config import TrainConfig, train_config
from pipeline.training.finder import RangeTest, find_learning_rate
from pipeline.training.loop import fit
from pipeline.training.optimizers import ParameterGroup
from pipeline.training.predicting import predict
from pipeline.training.results import EpochResult, StepResult
from pipeline.training.schedules import Schedule
from pipeline.training.scope import Scope
from pipeline.training.statistics import reestimate_batch_norm
from pipeline.training.stepping import Loss

__all__ = [
    "Augmentation",
    "EpochResult",
    "Loss",
    "ParameterGroup",
    "RangeTest",
    "Schedule",
    "Scope",
    "StepResult",
    "TrainConfig",
    "find_learning_rate",
    "fit",
    "predict",
    "reestimate_batch_norm",
    "steps_in",
    "train_config",
]
