"""An Android device for tests, as far as adb sees it: the real adb client talks to it over loopback.

::

    python fake_adbd.py FOLDER [--faults FILE] [--model NAME] [--fingerprint TEXT]

It listens on a free port of 127.0.0.1 and prints ``ready PORT`` once it does. It knows no authentication and two
services: ``shell,v2`` (runs ``sh -c COMMAND`` on this machine, in FOLDER) and ``sync:`` (push, pull, stat; paths
outside FOLDER are refused). ``getprop`` answers with the model and the fingerprint.

FILE, read before each service, holds faults: ``[{"in": "shell", "match": "text in the request", "do": "drop"}]``;
the first that matches holds. What they do:

========= =====================================================================================================
drop      the connection breaks when the command has begun (or, in sync, after the first data)
offline   the same, and no new connection is taken until the file says otherwise
garbage   random bytes and exit 0 instead of the command
zero      the command runs; its exit code is reported as 0, and its output is cut in half
silent    nothing, ever
twice     every output twice
full      sync: the push fails with "No space left on device"
folder    sync: the file is said to be a folder, with a file ``escaped`` in it
========= =====================================================================================================

Wire format: Android's ``packages/modules/adb``, protocol.txt, SYNC.TXT and shell_protocol.h.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import socket
import socketserver
import struct
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO

VERSION = 0x01000001
MAX_PAYLOAD = 1 << 18
CHUNK = 1 << 16
CONNECT, OPEN, READY, WRITE, CLOSE = (
    int.from_bytes(w, "little") for w in (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
)
STDOUT, STDERR, EXIT = 1, 2, 3
ESCAPED = b"escaped"


class Broken(Exception):
    """The connection has ended, or a fault says so."""


class Stream:
    """One service: an ordered flow of bytes each way, one unacknowledged write at a time."""

    def __init__(self, link: Link, ours: int, theirs: int) -> None:
        self._link, self._ours, self._theirs = link, ours, theirs
        self._incoming: queue.Queue[bytes | None] = queue.Queue()
        self._acknowledged = threading.Semaphore(0)
        self._sending = threading.Lock()
        self._left = b""
        self._open = True

    def took(self, data: bytes) -> None:
        self._incoming.put(data)
        self._link.send(READY, self._ours, self._theirs)

    def acknowledged(self) -> None:
        self._acknowledged.release()

    def ended(self) -> None:
        self._open = False
        self._incoming.put(None)
        self._acknowledged.release()

    def read(self, size: int) -> bytes:
        while len(self._left) < size:
            data = self._incoming.get()
            if data is None:
                raise Broken
            self._left += data
        data, self._left = self._left[:size], self._left[size:]
        return data

    def write(self, data: bytes) -> None:
        with self._sending:
            for start in range(0, len(data), CHUNK):
                if not self._open:
                    raise Broken
                self._link.send(WRITE, self._ours, self._theirs, data[start : start + CHUNK])
                self._acknowledged.acquire()

    def close(self) -> None:
        self._link.send(CLOSE, self._ours, self._theirs)

    def break_link(self) -> None:
        self._link.break_off()
        raise Broken


class Link(socketserver.BaseRequestHandler):
    """One connection of an adb server."""

    server: Board

    def setup(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[int, Stream] = {}

    def handle(self) -> None:
        if self.server.fault("connect", "") == "offline":
            return
        try:
            while True:
                command, first, second, size, _, _ = struct.unpack("<6I", self._receive(24))
                self._dispatch(command, first, second, self._receive(size))
        except (Broken, OSError):
            for stream in list(self._streams.values()):
                stream.ended()

    def _dispatch(self, command: int, first: int, second: int, data: bytes) -> None:
        if command == CONNECT:
            self.send(CONNECT, VERSION, MAX_PAYLOAD, self.server.banner())
        elif command == OPEN:
            ours = len(self._streams) + 1
            stream = self._streams[ours] = Stream(self, ours, first)
            self.send(READY, ours, first)
            request = data.rstrip(b"\0").decode()
            threading.Thread(target=serve, args=(self.server, stream, request), daemon=True).start()
        elif second in self._streams:
            stream = self._streams[second]
            if command == READY:
                stream.acknowledged()
            elif command == WRITE:
                stream.took(data)
            elif command == CLOSE:
                stream.ended()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        head = struct.pack("<6I", command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self._lock:
            try:
                self.request.sendall(head + data)
            except OSError as error:
                raise Broken from error

    def break_off(self) -> None:
        with contextlib.suppress(OSError):  # it may be broken already
            self.request.shutdown(socket.SHUT_RDWR)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.request.recv(size - len(data))
            if not more:
                raise Broken
            data += more
        return data


class Board(socketserver.ThreadingTCPServer):
    """The device: its folder, its properties and its faults."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder: Path, faults: Path | None, model: str, fingerprint: str) -> None:
        super().__init__(("127.0.0.1", 0), Link)
        self.folder = folder.resolve()
        self._faults = faults
        self._programs = tempfile.TemporaryDirectory(prefix="adbd-")
        getprop = Path(self._programs.name, "getprop")
        getprop.write_text(
            "#!/bin/sh\n"
            'case "$1" in '
            f"ro.product.model) echo '{model}';; ro.build.fingerprint) echo '{fingerprint}';; *) echo;; esac\n"
        )
        getprop.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{self._programs.name}:{os.environ['PATH']}"}

    def banner(self) -> bytes:
        return b"device::ro.product.name=board;ro.product.model=Board;ro.product.device=board;features=shell_v2,cmd"

    def fault(self, where: str, request: str) -> str:
        rules = json.loads(self._faults.read_text()) if self._faults and self._faults.exists() else []
        for rule in rules:
            if rule["do"] == "offline" and where == "connect":
                return "offline"
            if rule["in"] == where and rule.get("match", "") in request:
                return str(rule["do"])
        return ""

    def inside(self, name: str) -> Path:
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder):
            raise PermissionError(1, "outside of the device's folder", name)
        return path


def serve(board: Board, stream: Stream, request: str) -> None:
    """One service, until its end."""
    try:
        if request.startswith("shell,v2"):
            shell(board, stream, request.partition(":")[2])
        elif request == "sync:":
            while sync(board, stream):
                pass
        stream.close()
    except Broken:
        pass


def shell(board: Board, stream: Stream, command: str) -> None:
    """Runs a command; frames of stdout and stderr, then one with the exit code."""
    fault = board.fault("shell", command)
    if fault == "silent":
        stream.read(1 << 30)
    if fault == "garbage":
        stream.write(frame(STDOUT, os.urandom(256)) + frame(EXIT, b"\0"))
        return
    process = subprocess.Popen(
        ["sh", "-c", command], env=board.environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=board.folder,
    )  # fmt: skip
    if fault in {"drop", "offline"}:
        stream.break_link()
    if fault == "zero":
        out, _ = process.communicate()
        stream.write(frame(STDOUT, out[: len(out) // 2]) + frame(EXIT, b"\0"))
        return
    copies = 2 if fault == "twice" else 1
    pumps = [
        threading.Thread(target=pump, args=(stream, pipe, number, copies))
        for pipe, number in ((process.stdout, STDOUT), (process.stderr, STDERR))
    ]
    for thread in pumps:
        thread.start()
    for thread in pumps:
        thread.join()
    stream.write(frame(EXIT, bytes([process.wait() & 255])))


def pump(stream: Stream, pipe: IO[bytes], number: int, copies: int) -> None:
    """Sends what comes out of a pipe."""
    try:
        while data := os.read(pipe.fileno(), CHUNK // 2):
            for _ in range(copies):
                stream.write(frame(number, data))
    except Broken:
        pass


def frame(number: int, data: bytes) -> bytes:
    return struct.pack("<BI", number, len(data)) + data


def sync(board: Board, stream: Stream) -> bool:
    """One request of the file service; False at its end."""
    word, size = struct.unpack("<4sI", stream.read(8))
    name = stream.read(size).decode()
    fault = board.fault("sync", name)
    if word == b"QUIT":
        return False
    try:
        if word == b"STAT":
            stat(board, stream, name, fault)
        elif word == b"SEND":
            receive(board, stream, name, fault)
        elif word == b"RECV":
            give(board, stream, name, fault)
        elif word == b"LIST":
            if fault == "folder":
                stream.write(b"DENT" + struct.pack("<IIII", 0o100644, 4, 1, len(ESCAPED)) + ESCAPED)
            stream.write(b"DONE" + bytes(16))
    except OSError as error:
        fail(stream, error.strerror or "error")
    return True


def stat(board: Board, stream: Stream, name: str, fault: str) -> None:
    if fault == "folder":
        mode = 0o100644 if name.endswith(ESCAPED.decode()) else 0o40755
        stream.write(b"STAT" + struct.pack("<III", mode, 4, 1))
        return
    try:
        found = board.inside(name).stat()
    except OSError:
        stream.write(b"STAT" + bytes(12))
    else:
        stream.write(b"STAT" + struct.pack("<III", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime)))


def receive(board: Board, stream: Stream, request: str, fault: str) -> None:
    """A push: ``name,mode``, then blocks of data."""
    name, _, mode = request.rpartition(",")
    blocks = []
    while True:
        word, size = struct.unpack("<4sI", stream.read(8))
        if word == b"DONE":
            break
        blocks.append(stream.read(size))
        if fault in {"drop", "offline"}:
            board.inside(name).write_bytes(blocks[0][: len(blocks[0]) // 2])
            stream.break_link()
    if fault == "full":
        board.inside(name).write_bytes(b"".join(blocks)[:10])
        raise OSError(28, "No space left on device")
    path = board.inside(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(blocks))
    path.chmod(int(mode) & 0o777)
    stream.write(b"OKAY" + bytes(4))


def give(board: Board, stream: Stream, name: str, fault: str) -> None:
    """A pull: blocks of data."""
    if fault == "folder":
        stream.write(b"DATA" + struct.pack("<I", 4) + b"evil" + b"DONE" + bytes(4))
        return
    data = board.inside(name).read_bytes()
    if fault == "garbage":
        data = os.urandom(len(data))
    for start in range(0, len(data), CHUNK):
        block = data[start : start + CHUNK]
        stream.write(b"DATA" + struct.pack("<I", len(block)) + block)
        if fault in {"drop", "offline"}:
            stream.break_link()
    stream.write(b"DONE" + bytes(4))


def fail(stream: Stream, why: str) -> None:
    stream.write(b"FAIL" + struct.pack("<I", len(why)) + why.encode())


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faults", type=Path)
    parser.add_argument("--model", default="Board")
    parser.add_argument("--fingerprint", default="edge/board/board:14/UP1A/1:user/release-keys")
    given = parser.parse_args()
    with Board(given.folder, given.faults, given.model, given.fingerprint) as board:
        print(f"ready {board.server_address[1]}", flush=True)  # noqa: T201 - the test waits for it
        board.serve_forever()


if __name__ == "__main__":
    main()
