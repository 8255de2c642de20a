"""An ONNX file read without its large weights: they stay where they lie in it, and the graph says where that is.

Protobuf copies every byte that it parses, and every time that Python asks for it. What a build needs of a weight (is it
finite, its hash, a copy in the engine file) is had piece by piece from the file itself.

Only what is beyond doubt is taken out: a weight of a plain type whose fields are those of a tensor with raw data, each
once. Anything unusual in the file, and protobuf reads all of it: there is one judge of what a model is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from targets.onnxtensors import INSIDE, SMALL_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# Field numbers of onnx.proto.
_GRAPH, _INITIALIZER, _DATA_TYPE, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 7, 5, 2, 9, 13, 14
_PLAIN_FIELDS: Final = frozenset({1, _DATA_TYPE, 8, _RAW_DATA, 12, _DATA_LOCATION, 16})
_PLAIN_TYPES: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16})  # whole bytes an element
_MAX_FIELDS: Final = 1 << 20  # some seconds of this program; protobuf itself is faster where there is no end of fields
_WINDOW: Final = 1 << 16
_HEAD: Final = 20  # a tag and a length have at most ten bytes each


class _UnusualError(Exception):
    """Not the plain form that this file takes apart."""


class _Field(NamedTuple):
    number: int
    wire: int
    start: int
    body: int
    end: int


def without_weights(descriptor: int, size: int) -> bytes | None:
    """The ModelProto in an open file, each large weight replaced by the place of its data in that file.

    Args:
        descriptor: Of the file.
        size: Its size in bytes.

    Returns:
        A serialised ModelProto whose large initializers have `INSIDE` as their location; None where there is none, or
        the file is not of the plain form.
    """
    try:
        return _Splitter(descriptor, size).model()
    except _UnusualError:
        return None


class _Splitter:
    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size = descriptor, size
        self._window, self._at, self._left = b"", 0, _MAX_FIELDS

    def model(self) -> bytes | None:
        found = [*self._fields(0, self._size)]
        graphs = [field for field in found if field.number == _GRAPH]
        if len(graphs) != 1 or graphs[0].wire != _LENGTH:
            raise _UnusualError
        [graph] = graphs
        parts, taken = self._graph(graph)
        if not taken:
            return None
        content = b"".join(parts)
        return b"".join([
            self._read(0, graph.start), _tag(_GRAPH, _LENGTH), _varint(len(content)), content,
            self._read(graph.end, self._size),
        ])  # fmt: skip

    def _graph(self, graph: _Field) -> tuple[list[bytes], int]:
        """The graph's fields in their order, and how many weights were taken out."""
        parts, kept, taken = [], graph.body, 0
        for field in self._fields(graph.body, graph.end):
            if field.number != _INITIALIZER or field.end - field.start <= SMALL_BYTES:
                continue
            if field.wire != _LENGTH:
                raise _UnusualError
            head = self._tensor(field)
            if head is not None:
                parts += [self._read(kept, field.start), _tag(_INITIALIZER, _LENGTH), _varint(len(head)), head]
                kept, taken = field.end, taken + 1
        return [*parts, self._read(kept, graph.end)], taken

    def _tensor(self, tensor: _Field) -> bytes | None:
        """The tensor without its data; None where it has to stay as it is."""
        found = [*self._fields(tensor.body, tensor.end)]
        numbers = [field.number for field in found]
        data = [field for field in found if field.number == _RAW_DATA]
        kinds = [self._whole(field) for field in found if field.number == _DATA_TYPE]
        if not _PLAIN_FIELDS.issuperset(numbers) or len(data) != 1 or len(kinds) != 1 or kinds[0] not in _PLAIN_TYPES:
            return None
        if data[0].wire != _LENGTH or data[0].end - data[0].body <= SMALL_BYTES:
            return None
        rest = [field for field in found if field.number not in {_RAW_DATA, _DATA_LOCATION}]
        if any(self._whole(field) for field in found if field.number == _DATA_LOCATION):
            return None
        place = {"location": INSIDE, "offset": str(data[0].body), "length": str(data[0].end - data[0].body)}
        told = [_entry(key, value) for key, value in place.items()]
        return b"".join([
            *(self._read(field.start, field.end) for field in rest), *told, _tag(_DATA_LOCATION, _VARINT), b"\1",
        ])  # fmt: skip

    def _whole(self, field: _Field) -> int:
        if field.wire != _VARINT:
            raise _UnusualError
        return self._varint_at(field.body)[0]

    def _fields(self, start: int, end: int) -> Iterator[_Field]:
        while start < end:
            self._left -= 1
            tag, body = self._varint_at(start)
            number, wire = tag >> 3, tag & 7
            if not number or self._left < 0 or body - start != len(_varint(tag)):
                raise _UnusualError
            if wire == _LENGTH:
                length, body = self._varint_at(body)
                stop = body + length
            elif wire == _VARINT:
                stop = self._varint_at(body)[1]
            elif wire in {_FIXED64, _FIXED32}:
                stop = body + (8 if wire == _FIXED64 else 4)
            else:
                raise _UnusualError  # groups
            if stop > end:
                raise _UnusualError
            yield _Field(number, wire, start, body, stop)
            start = stop

    def _varint_at(self, position: int) -> tuple[int, int]:
        """The number that stands there, and where the next byte is."""
        if not self._at <= position <= self._at + len(self._window) - _HEAD:
            self._window, self._at = os.pread(self._descriptor, _WINDOW, position), position
        value = shift = 0
        for index in range(position - self._at, min(position - self._at + 10, len(self._window))):
            byte = self._window[index]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:  # noqa: PLR2004 - the eighth bit says that more follow
                return value, self._at + index + 1
            shift += 7
        raise _UnusualError

    def _read(self, start: int, end: int) -> bytes:
        parts = []
        while start < end:
            part = os.pread(self._descriptor, end - start, start)
            if not part:
                raise _UnusualError
            parts.append(part)
            start += len(part)
        return b"".join(parts)


def _entry(key: str, value: str) -> bytes:
    """One StringStringEntryProto of external_data."""
    pair = b"".join(
        _tag(number, _LENGTH) + _varint(len(text)) + text.encode() for number, text in ((1, key), (2, value))
    )
    return _tag(_EXTERNAL_DATA, _LENGTH) + _varint(len(pair)) + pair


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >> 7:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
