"""The edit that made weights zero: where they are stands in the weights themselves, how many must be is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import torch

from pipeline.edits.base import Edit, unreadable
from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from torch.fx import GraphModule


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse(Edit):
    """Weights of which some are zero, and have to stay so.

    The zeros are the mask: a separate one could differ from what ships.

    Attributes:
        zeros: How many elements of each parameter are zero, at least.
    """

    kind: ClassVar[str] = "sparse"
    zeros: Mapping[str, int]

    def apply(self, graph: GraphModule) -> GraphModule:
        """The graph as it is: which weights are zero is known when they are loaded."""
        known = {name: value.numel() for name, value in graph.named_parameters(remove_duplicate=False)}
        for name, count in self.zeros.items():
            if name not in known:
                raise _misfit(f"the model has no parameter {name!r}, {nearest(name, known)}")
            if count > known[name]:
                raise _misfit(f"{name!r} has {known[name]} elements, and {count} zeros in the edit")
        return graph

    def check(self, graph: GraphModule) -> None:
        """All zeros are still there."""
        for name, count in self.zeros.items():
            value = graph.get_parameter(name)
            found = value.numel() - int(torch.count_nonzero(value))
            if found < count:
                raise _misfit(f"{count} elements of {name!r} were made zero, and {found} are")

    def to_json(self) -> dict[str, object]:
        """``{"zeros": {"fc.weight": 12}}``."""
        return {"zeros": dict(sorted(self.zeros.items()))}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Sparse:
        """What `to_json` wrote."""
        zeros = data.get("zeros")
        if not isinstance(zeros, Mapping) or not zeros:
            raise unreadable("an edit that made weights zero names none")
        for name, count in zeros.items():
            if type(count) is not int or count < 0:
                raise unreadable(f"{count!r} is no number of zeros ({name})")
        return cls(zeros={str(name): count for name, count in zeros.items()})


def _misfit(why: str) -> InputError:
    return InputError(
        "the edits of the model do not fit it",
        why,
        "use the folder as edgepress wrote it, or run the recipe again",
    )
