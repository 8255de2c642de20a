"""The one training loop."""

from pipeline.training.loop import EpochResult, TrainConfig, fit, predict

__all__ = ["EpochResult", "TrainConfig", "fit", "predict"]
