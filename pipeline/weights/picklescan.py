"""Reads a pickle's instructions without obeying any: what it would import must stand on a list of harmless names.

The list holds what `torch.save` writes for a state dict and no more, so it is an allow-list; lists of known dangers are
got round again and again (CVE-2025-1716 and its kin). It is the first of two barriers: torch's own ``weights_only``
unpickler follows, in a limited child.
"""

from __future__ import annotations

import pickletools
import re
from typing import TYPE_CHECKING, Final, final

from targets.errors import RefusedError

if TYPE_CHECKING:
    from typing import IO

_HARMLESS: Final = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch\.nn\.parameter Parameter"
    r"|torch\.storage (Untyped|Typed)Storage"
    r"|torch (Size|device|Tensor|\w+Storage)"
    r"|torch (bool|u?int\d+|float\d+(_e\d+m\d+\w*)?|bfloat16|complex\d+)"
)
_IMPORTS: Final = frozenset({"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"})
_LONGEST_TEXT: Final = 200
_PIECE_BYTES: Final = 1 << 20


@final
class _InPieces:
    """A file that is asked for no more than a piece at once: a length that lies then costs no memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.readline = file.readline
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes, fewer where the file ends."""
        pieces: list[bytes] = []
        while count > 0 and (piece := self._file.read(min(count, _PIECE_BYTES))):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)


def check_pickle(file: IO[bytes], shown: str) -> None:
    """Reads one pickle to its end.

    Args:
        file: Where it begins.
        shown: What to call the file in messages.

    Raises:
        RefusedError: It would import something that is not on the list, by any instruction.
        ValueError: It is no whole pickle.
    """
    texts: list[str] = []
    for opcode, argument, position in pickletools.genops(_InPieces(file)):  # type: ignore[arg-type]
        if opcode.name == "GLOBAL":
            if not _HARMLESS.fullmatch(str(argument)):
                raise _refused(shown, str(argument).replace(" ", "."), position)
        elif opcode.name in _IMPORTS:
            named = str(argument).replace(" ", ".") if opcode.name == "INST" else ".".join(texts[-2:])
            raise _refused(shown, named or opcode.name, position)
        elif isinstance(argument, str):
            texts = [*texts[-1:], argument[:_LONGEST_TEXT]]


def _refused(shown: str, name: str, position: int | None) -> RefusedError:
    return RefusedError(
        f"refused to read weights from {shown}",
        f"it holds code beside tensors: {name[:_LONGEST_TEXT]!r} at byte {position}",
        "save a plain state dict: torch.save(model.state_dict(), path), or safetensors",
    )
