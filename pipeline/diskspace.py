"""How much room a run may need on the cache's disk: told before hours of work, and again where it was not enough."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from pipeline.artifacts import Bundle, CandidateBuild, OnnxModel, TorchModel
from pipeline.data.source import FileRef
from pipeline.events import Notice, Observer
from pipeline.recipe.quantization import QuantizeSection
from pipeline.recipe.training import LearningSection, QatSection
from pipeline.store.place import OTHER_CACHE
from targets.files import megabytes

if TYPE_CHECKING:
    from pipeline.plan import Node
    from pipeline.stages.base import Stage
    from pipeline.store import Entry

# In sizes of the model's file; seen in a run of every stage with a model of 28 MB, and rounded up.
_STAYS: Final = 2  # a stored result, and the copy that later stages of the run read
_WORK: Final = 3  # of a stage: what it writes, and that again while it is stored
_WORK_OF: Final = {"quantize": 6, "bundle": 5}
_CHECKPOINTS: Final = 3  # two are kept while the next is written
_SHARES: Final = {"int4": 0.2, "int8": 0.3, "quantize": 0.3, "16": 0.5, "halve": 0.5}  # by a word in the node's name


class Done(Protocol):
    """What is known of a finished node."""

    @property
    def node(self) -> Node:
        """The node."""

    @property
    def entry(self) -> Entry:
        """Its result in the store."""


@final
class Forecast:
    """Looks ahead from each stage that is about to run, and warns once.

    Args:
        nodes: Of the plan, in order.
        root: Of the store.
        observer: Is told.
    """

    def __init__(self, nodes: Sequence[Node], root: Path, observer: Observer) -> None:
        self._nodes, self._root, self._observer = nodes, root, observer
        self._told = False

    def before(self, node: Node, done: Mapping[str, Done]) -> int:
        """Bytes that the stage may need; 0 where nothing is known of the model yet."""
        model_bytes = _model_bytes(self._nodes, done)
        if not self._told and model_bytes:
            first = [other.name for other in self._nodes].index(node.name)
            self._look_ahead(run_bytes([n for n in self._nodes[first:] if n.name not in done], model_bytes))
        return _work_bytes(node, model_bytes)

    def _look_ahead(self, needed_bytes: int) -> None:
        free_bytes = free_space(self._root)
        if free_bytes is None or free_bytes >= needed_bytes:
            return
        self._told = True
        lack = megabytes(needed_bytes - free_bytes)
        self._observer(
            Notice(
                text=f"the rest of this run may need {megabytes(needed_bytes)} on the disk of the cache, which has "
                f"{megabytes(free_bytes)} free: free {lack}, or {OTHER_CACHE}"
            )
        )


def run_bytes(nodes: Sequence[Node], model_bytes: int) -> int:
    """The most that stages hold on the disk at once, one after the other.

    Args:
        nodes: Those that are not in the store, in order.
        model_bytes: Size of the model's file.
    """
    stays, most = 0, 0
    for node in nodes:
        most = max(most, stays + _work_bytes(node, model_bytes))
        stays += int(_stays(node) * model_bytes)
    return max(most, stays)


def free_space(place: Path) -> int | None:
    """Bytes free for this user on the disk of a place; None where the system does not say."""
    try:
        found = os.statvfs(place)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _model_bytes(nodes: Sequence[Node], done: Mapping[str, Done]) -> int:
    """The largest model there is, among results and among the user's own files."""
    made = [
        ref.size_bytes
        for item in done.values()
        if issubclass(item.node.stage.produces, (TorchModel, OnnxModel))
        for ref in item.entry.files
    ]
    given = [_size(ref) for node in nodes for ref in _files(node)]
    return max((*made, *given), default=0)


def _files(node: Node) -> list[FileRef]:
    """The user's files of weights that a stage reads."""
    found = [getattr(node.stage, name, None) for name in ("weights", "onnx")]
    return [item for item in (*found, *getattr(node.stage, "external", ())) if isinstance(item, FileRef)]


def _size(ref: FileRef) -> int:
    try:
        return ref.path.stat().st_size
    except OSError:
        return 0


def _stays(node: Node) -> float:
    if not issubclass(node.stage.produces, (TorchModel, OnnxModel, CandidateBuild, Bundle)):
        return 0
    return _STAYS * next((share for word, share in _SHARES.items() if word in node.name), 1)


def _work_bytes(node: Node, model_bytes: int) -> int:
    section = _training(node.stage)
    work = _WORK_OF.get(node.stage.name, _WORK)
    if section is not None:
        moments = {"sgd": 1}.get(section.optimizer, 2)
        states = 1 + moments + (section.ema_decay is not None) + _keeps_best(section)
        work = max(work, _STAYS + _CHECKPOINTS * states)
    return model_bytes * work


def _training(stage: Stage[Any]) -> LearningSection | None:
    """How a stage trains, if it does: a section of its own name, or the fine-tuning in that."""
    section = getattr(stage, stage.name, None)
    if isinstance(section, QuantizeSection):
        return section.training if section.qat == "on" else None  # auto: rarely, and then there is what was forecast
    section = section if isinstance(section, LearningSection) else getattr(section, "finetune", None)
    return section if isinstance(section, LearningSection) else None


def _keeps_best(section: LearningSection) -> bool:
    return section.keep == "best" or section.patience is not None or isinstance(section, QatSection)
