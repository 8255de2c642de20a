"""The contract of an edit: one change of an exported graph that can be written down and done again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from torch.fx import GraphModule


class Edit(ABC):
    """One change, as frozen data: no graph node's name is in it, for these differ from trace to trace.

    Attributes:
        kind: What it is called in ``model.json``.
    """

    __slots__ = ()
    kind: ClassVar[str]

    @abstractmethod
    def apply(self, graph: GraphModule) -> GraphModule:
        """The edited graph; ``graph`` stays as it is.

        Raises:
            InputError: The edit was not made for this graph.
        """

    def check(self, graph: GraphModule) -> None:
        """Checks what must hold once the weights are loaded too; by default there is nothing more.

        Raises:
            InputError: It does not hold.
        """
        del graph

    @abstractmethod
    def to_json(self) -> dict[str, object]:
        """Its fields as plain data, without the kind."""

    @classmethod
    @abstractmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """What `to_json` wrote.

        Raises:
            InputError: The data are no such edit.
        """


def unreadable(why: str) -> InputError:
    """The error for a document that holds no edits."""
    return InputError(
        "the edits of the model cannot be read", why, "use the folder as edgepress wrote it, or run the recipe again"
    )
