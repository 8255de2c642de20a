"""A real sshd on loopback, run by an ordinary user in a mount namespace of its own: a board without the board."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final, final

import pytest

UID: Final = 4242
_CONFIG: Final = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {key}
AuthorizedKeysFile {authorized}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxSessions 20
"""


@final
class Board:
    """One computer that an sshd lets in: user ``edge``, a home folder, a host key that can be exchanged.

    As root, the sshd becomes an ordinary user that may still read our Python; otherwise it stays who we are.
    """

    def __init__(self, sshd: Path, folder: Path) -> None:
        self._sshd, self._folder = sshd, folder
        self.port = _free_port()
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.log = folder / "log"
        self.uid = UID if os.getuid() == 0 else os.getuid()
        for name in ("key_a", "key_b", "user"):
            _keygen(folder / name)
        shutil.copy(folder / "user.pub", folder / "authorized")
        (folder / "passwd").write_text(f"edge:x:{self.uid}:{self.uid}::{self.home}:/bin/sh\n")
        if os.getuid() == 0:
            for path in (self.home, folder / "key_a", folder / "key_b"):
                os.chown(path, UID, UID)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"edge@127.0.0.1:{self.port}"

    def fingerprint(self, key: str = "a") -> str:
        done = subprocess.run(
            ["ssh-keygen", "-lf", self._folder / f"key_{key}.pub"], capture_output=True, text=True, check=True
        )
        return done.stdout.split()[1]

    def start(self, key: str = "a", *, disk_kb: int | None = None, sftp: bool = True) -> Board:
        """Starts the sshd; with ``disk_kb`` the home folder is a disk of that size, and ``sftp`` can be left out."""
        config = self._folder / "config"
        config.write_text(
            _CONFIG.format(port=self.port, key=self._folder / f"key_{key}", authorized=self._folder / "authorized")
            + ("Subsystem sftp internal-sftp\n" if sftp else "")
        )
        script = ["set -e", f"mount --bind {shlex.quote(str(self._folder / 'passwd'))} /etc/passwd"]
        if disk_kb is not None:
            options = f"size={disk_kb}k,uid={self.uid},mode=700"
            script.append(f"mount -t tmpfs -o {options} none {shlex.quote(str(self.home))}")
        sshd = shlex.join([str(self._sshd), "-D", "-e", "-f", str(config)])
        if os.getuid() == 0:
            caps = " ".join(f"--{kind} -all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set"))
            script.append(f"exec setpriv --reuid {UID} --regid {UID} --clear-groups {caps} {sshd}")
            unshare = ["unshare", "--mount", "--propagation", "private"]
        else:
            script.append(f"exec {sshd}")
            unshare = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*unshare, "sh", "-c", "\n".join(script)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        for _ in range(500):
            if b"Server listening" in self.log.read_bytes():
                return self
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        self.stop()
        pytest.skip(f"SKIPPED sshd: it does not start here: {self.log.read_text()[-300:]}")

    def stop(self) -> None:
        """Ends the sshd and everything that logged in; what commands started runs on, as on a real computer."""
        if self._process is None:
            return
        for pid in (self._process.pid, *self.connections()):
            _signal(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def connections(self) -> list[int]:
        """The processes of all connections: for each one that watches, and one that does the work."""
        assert self._process is not None
        found, look = [], [self._process.pid]
        while look:
            inner = [pid for pid in _children(look.pop()) if _title(pid).startswith(b"sshd: ")]
            found += inner
            look += inner
        return found

    def signal_connections(self, number: signal.Signals) -> None:
        for pid in self.connections():
            _signal(pid, number)

    def signal_listener(self, number: signal.Signals) -> None:
        assert self._process is not None
        _signal(self._process.pid, number)

    def programs(self) -> list[int]:
        """Our programs that run on the board now, by whoever started them."""
        mine = str(self.home).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if any(word.startswith(mine) and word.endswith(b".pyz") for word in words):
                    found.append(int(entry.name))
        return found

    def files(self) -> list[str]:
        """All files below the home folder, relative; as seen from outside, so not those on a disk of its own."""
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*") if path.is_file())


def start_agent(board_folder: Path, socket_folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """An ssh-agent that holds the board's user key; its process and socket."""
    path = socket_folder / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    for _ in range(250):
        if path.exists():
            break
        time.sleep(0.02)
    environment = os.environ | {"SSH_AUTH_SOCK": str(path)}
    subprocess.run(["ssh-add", "-q", board_folder / "user"], env=environment, check=True)
    return agent, str(path)


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
