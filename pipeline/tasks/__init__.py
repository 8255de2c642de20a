"""What a model is for: its loss, its metrics and what its labels must look like."""

from __future__ import annotations

from pipeline.tasks.base import Task
from pipeline.tasks.classification import Classification
from pipeline.tasks.detection import Detection
from pipeline.tasks.fidelity import Fidelity
from pipeline.tasks.find import TASKS, find_task, make_task
from pipeline.tasks.recommendation import Recommendation
from pipeline.tasks.regression import Regression
from pipeline.tasks.segmentation import Segmentation

__all__ = [
    "TASKS",
    "Classification",
    "Detection",
    "Fidelity",
    "Recommendation",
    "Regression",
    "Segmentation",
    "Task",
    "find_task",
    "make_task",
]
