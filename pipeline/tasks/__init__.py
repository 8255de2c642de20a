"""What a model is for: its loss, its metric and what its labels must look like."""

from __future__ import annotations

from typing import Final

from pipeline.tasks.base import Task
from pipeline.tasks.classification import Classification
from pipeline.tasks.fidelity import Fidelity

TASKS: Final[dict[str, Task]] = {task.name: task for task in (Classification(), Fidelity())}

__all__ = ["TASKS", "Classification", "Fidelity", "Task"]
