"""Names for operators of an exported graph that hold from trace to trace, which fx node names do not.

An operator is called by the call of the user's module that it stands in, its name, and its number among the operators
of that name there: ``blocks.1:add[1]`` is the second addition in the forward of ``blocks.1``. The second call of one
module is ``blocks.1@1``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.graph.operators import operator_name
from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import fx

_ROOT: Final = "L__self__"
_INPUT: Final = "input"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an operator stands.

    Attributes:
        module: Call of the user's module, empty at the top; of a model's input, its name.
        operator: Name of the operator (``conv2d``, ``add``), or ``input``.
        number: Among the operators of that name in that call, from 0.
    """

    module: str
    operator: str
    number: int

    def __str__(self) -> str:
        return f"{self.module}:{self.operator}[{self.number}]"

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        return {"module": self.module, "operator": self.operator, "number": self.number}

    @classmethod
    def from_json(cls, data: object) -> Address:
        """What `to_json` wrote.

        Raises:
            ValueError: The data are no address.
        """
        match data:
            case {"module": str(module), "operator": str(operator), "number": int(number)}:
                return cls(module=module, operator=operator, number=number)
        raise ValueError(f"{data!r} is no address of an operator")


def addresses(gm: fx.GraphModule) -> dict[fx.Node, Address]:
    """The address of every input and operator, in graph order."""
    found: dict[fx.Node, Address] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            found[node] = Address(module=str(node.target), operator=_INPUT, number=0)
        elif node.op == "call_function":
            place = (calls(node)[-1], operator_name(node))
            found[node] = Address(module=place[0], operator=place[1], number=seen[place])
            seen[place] += 1
    return found


def locate(known: Mapping[fx.Node, Address], address: Address) -> fx.Node:
    """The node at an address.

    Raises:
        InputError: There is none.
    """
    for node, found in known.items():
        if found == address:
            return node
    raise InputError(
        "the edits of the model do not fit it",
        f"there is no operator {str(address)!r}, {nearest(str(address), [str(item) for item in known.values()])}",
        "use the edits that were written for this model, or run the recipe again",
    )


def calls(node: fx.Node) -> list[str]:
    """The calls of the user's modules that an operator stands in, outermost first: ``["", "blocks.1", ...]``."""
    stack = node.meta.get("nn_module_stack", {})
    found = [_call(str(key), str(entry[0])) for key, entry in stack.items()]
    return ["", *(call for call in found if call)]


def _call(key: str, path: str) -> str:
    """``blocks.1`` for its first call, ``blocks.1@1`` for its second; the exporter counts them in the key."""
    if not path or path.startswith("_"):
        return ""
    _, at, number = key.removeprefix(_ROOT).partition("@")
    return f"{path}{at}{number}"
