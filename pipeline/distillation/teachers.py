"""Teachers: what gives the answers and features that a student is compared with, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, final

import torch

from pipeline.graph import flat_outputs, set_training, with_taps
from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from torch.fx import GraphModule

_LISTED: Final = 12


class Teacher(ABC):
    """Gives outputs and tapped features; it is never trained.

    Attributes:
        taps: How many of the tensors that it gives are taps: the last ones.
    """

    taps: int = 0

    @abstractmethod
    def tell(self, inputs: Mapping[str, Tensor], rows: Tensor | None) -> Sequence[Tensor]:
        """Outputs, then taps, for one batch, ``(N, ...)`` each, without gradient.

        Args:
            inputs: By the student's names, in order.
            rows: Numbers of the samples in the training split, ``(N,)``; None where samples are changed at random.
        """


@final
class GraphTeacher(Teacher):
    """An exported graph, in evaluation mode.

    Args:
        graph: The teacher.
        names: Its inputs, in order.
        taps: Module paths.

    Raises:
        InputError: A tap names no module.
    """

    def __init__(self, graph: GraphModule, names: Sequence[str], taps: Sequence[str]) -> None:
        set_training(graph, training=False)
        self._graph: Final = with_taps(graph, taps) if taps else graph
        self.taps = len(taps)
        self._names: Final = tuple(names)
        self._device = torch.device("cpu")

    def tell(self, inputs: Mapping[str, Tensor], rows: Tensor | None) -> Sequence[Tensor]:
        """Computed from the inputs."""
        del rows
        fed = fed_by_name(inputs, self._names)
        device = next(iter(fed.values())).device
        if device != self._device:
            self._graph.to(device)
            self._device = device
        with torch.no_grad():
            return flat_outputs(self._graph(*fed.values()))


@final
class OnnxTeacher(Teacher):
    """An ONNX file, run by ONNX Runtime.

    Args:
        model: The file; one that this project wrote.
        taps: Names of tensors.
        threads: Threads inside one operator.

    Raises:
        InputError: A tap names no tensor.
    """

    def __init__(self, model: Path, taps: Sequence[str], threads: int) -> None:
        from calibration.session import Session
        from targets.onnxfile import io_of, open_stored

        loaded = open_stored(model).model
        description = io_of(loaded)
        known = {str(name) for node in loaded.graph.node for name in node.output if name}
        for tap in taps:
            if tap not in known:
                raise InputError(
                    f"the ONNX teacher has no tensor {tap!r} to tap",
                    "no node of its graph gives it",
                    nearest(tap, known),
                )
        self.taps = len(taps)
        outputs = [str(item["name"]) for item in description["outputs"]]
        for tap in dict.fromkeys(taps):
            if tap not in outputs:
                loaded.graph.output.add().name = tap
        self._wanted: Final = (*outputs, *taps)
        self._names: Final = tuple(str(item["name"]) for item in description["inputs"])
        self._one_by_one: Final = any(item["shape"][:1] == [1] for item in description["inputs"])
        self._session: Final = Session(loaded.SerializeToString(), threads=threads, optimize=False)

    def tell(self, inputs: Mapping[str, Tensor], rows: Tensor | None) -> Sequence[Tensor]:
        """Computed from the inputs, one sample after the other where the file's batch is fixed to one."""
        del rows
        fed = fed_by_name(inputs, self._names)
        first = next(iter(fed.values()))
        size = 1 if self._one_by_one else len(first)
        arrays = {name: value.cpu().numpy() for name, value in fed.items()}
        parts = [
            self._session.run(self._wanted, {name: array[start : start + size] for name, array in arrays.items()})
            for start in range(0, len(first), size)
        ]
        return [
            torch.cat([torch.from_numpy(part) for part in column]).to(first.device)
            for column in zip(*parts, strict=True)
        ]


@final
class KeptTeacher(Teacher):
    """Answers that were kept, one row a sample of the training split.

    Args:
        answers: One tensor an output, ``(samples, ...)``.
    """

    def __init__(self, answers: Sequence[Tensor]) -> None:
        self._answers: Final = tuple(answers)

    def tell(self, inputs: Mapping[str, Tensor], rows: Tensor | None) -> Sequence[Tensor]:
        """Looked up by the samples' numbers."""
        assert rows is not None, "kept answers belong to samples that nothing changes"
        device = next(iter(inputs.values())).device
        return [answer[rows.to(answer.device)].to(device) for answer in self._answers]


def fed_by_name(inputs: Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
    """The inputs under a teacher's names, in its order; a single one fits whatever it is called.

    Raises:
        InputError: Student and teacher take different inputs.
    """
    if set(names) == set(inputs):
        return {name: inputs[name] for name in names}
    if len(names) == len(inputs) == 1:
        return dict(zip(names, inputs.values(), strict=True))
    raise InputError(
        f"the teacher takes the inputs {', '.join(names)}",
        f"the student takes {', '.join(inputs)}",
        "give both models inputs of the same names",
    )


def mean_answer(answers: Sequence[Tensor], *, average: str, temperature: float | None, axis: int) -> Tensor:
    """Logits that stand for several teachers.

    As ``probabilities``, ``softmax(result / T)`` is the mean of the teachers' softened probabilities, so that a loss
    with that temperature sees exactly the mean. As ``logits``, their mean.

    Args:
        answers: Logits of one shape each.
        average: ``probabilities`` or ``logits``.
        temperature: The loss'; None for a loss that does not soften.
        axis: The axis of the classes.
    """
    if len(answers) == 1:
        return answers[0]
    stacked = torch.stack(tuple(answers))
    if average == "logits" or temperature is None:
        return stacked.mean(0)
    softened = torch.log_softmax(stacked / temperature, dim=axis if axis < 0 else axis + 1)
    return temperature * softened.logsumexp(0)  # the constant log(K) makes no difference to a softmax
