"""A file that is hashed while it is written: large data go through a few buffers, hashed in a thread of its own."""

from __future__ import annotations

import hashlib
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, Final, final

if TYPE_CHECKING:
    from types import TracebackType

_BUFFER_BYTES: Final = 1 << 20
_BUFFERS: Final = 3  # one is read and written while another is hashed; they stay in the cache


@final
class HashedFile:
    """Writes to a stream and hashes what it writes, in that order; to be used in a ``with`` block.

    Args:
        stream: Where to write.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest = stream, hashlib.sha256()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sha256")
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(bytearray(_BUFFER_BYTES))
        self._small = bytearray()

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def put(self, data: bytes) -> None:
        """Writes a part that is in memory."""
        self._small += data
        if len(self._small) >= _BUFFER_BYTES:
            self._flush()

    def copy(self, source: BinaryIO, length: int) -> None:
        """Writes the next ``length`` bytes of an open file.

        Raises:
            EOFError: It has less.
        """
        self._flush()
        while length:
            buffer = self._free.get()
            part = memoryview(buffer)[: min(length, _BUFFER_BYTES)]
            if source.readinto(part) != len(part):  # type: ignore[attr-defined]
                raise EOFError("the file became shorter")
            self._thread.submit(self._hash, part, buffer)
            self._stream.write(part)
            length -= len(part)

    def sha256(self) -> str:
        """Writes what is left; the hash of all of it, in hex."""
        self._flush()
        self._stream.flush()
        self._thread.shutdown()
        return self._digest.hexdigest()

    def _hash(self, part: memoryview, buffer: bytearray) -> None:
        self._digest.update(part)
        self._free.put(buffer)

    def _flush(self) -> None:
        if self._small:
            data, self._small = bytes(self._small), bytearray()
            self._thread.submit(self._digest.update, data)
            self._stream.write(data)
