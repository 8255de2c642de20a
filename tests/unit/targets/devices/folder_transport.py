"""A transport to a folder of this machine, with sh: all of a remote device but the wire, and faults on demand."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

from targets.devices.transport import ShellResult, Transport, lost
from targets.errors import DeviceError

PATH = "/usr/local/bin:/usr/bin:/bin"


@final
class FolderTransport(Transport):
    """Runs scripts with ``root`` as home and working folder.

    ``before`` and ``after`` are called around each script, ``during_push`` after each copy; tests replace them.
    """

    name = "folder"
    kind = "folder"
    folder = ".edgepress"

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.is_open = False
        self.opened = 0
        self.pushed: list[str] = []
        self.scripts: list[str] = []
        self.before: Callable[[FolderTransport, str], None] = lambda _transport, _script: None
        self.after: Callable[[FolderTransport, str, ShellResult], ShellResult] = lambda _t, _s, result: result
        self.during_push: Callable[[Path], None] = lambda _path: None

    def open(self) -> None:
        self.is_open = True
        self.opened += 1

    def close(self) -> None:
        self.is_open = False

    def interactive(self, command: Sequence[str]) -> int:
        return subprocess.run(["sh", "-c", "exec $*", *command], cwd=self.root, check=False).returncode

    def cut(self) -> None:
        """The connection is gone."""
        self.is_open = False
        raise lost(self.name, "the cable was cut")

    def _shell(self, script: str, timeout_s: float, limit_bytes: int) -> ShellResult:
        assert self.is_open
        self.scripts.append(script)
        self.before(self, script)
        try:
            done = subprocess.run(
                ["sh", "-c", script],
                cwd=self.root,
                env={"HOME": str(self.root), "PATH": PATH},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired:
            raise lost(self.name, f"no answer for {timeout_s:.0f} s") from None
        if len(done.stdout) > limit_bytes:
            raise DeviceError("device 'folder' sent too much", "a lot", "see what runs there")
        return self.after(self, script, ShellResult(status=0, stdout=done.stdout, stderr=done.stderr))

    def _push(self, local: Path, remote: str) -> None:
        assert self.is_open
        self.pushed.append(remote)
        target = self.root / remote
        try:
            shutil.copyfile(local, target)
        except OSError as error:
            raise DeviceError("copying failed", str(error), "look there") from error
        self.during_push(target)

    def _pull(self, remote: str, local: Path, max_bytes: int) -> None:
        source = self.root / remote
        if not source.is_file() or source.stat().st_size > max_bytes:
            raise DeviceError("copying failed", "no such file, or too large", "look there")
        shutil.copyfile(source, local)
