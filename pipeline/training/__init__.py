"""The one training loop."""

from pipeline.training.config import TrainConfig, train_config
from pipeline.training.loop import EpochResult, Loss, fit, predict

__all__ = ["EpochResult", "Loss", "TrainConfig", "fit", "predict", "train_config"]
