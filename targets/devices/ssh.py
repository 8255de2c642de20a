"""A device behind the system's ssh: one master connection for a session, checked against one pinned host key."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from targets import child
from targets.devices.answers import printable
from targets.devices.pinning import (
    ALIVE_COUNT,
    ALIVE_INTERVAL_S,
    CONNECT_TIMEOUT_S,
    HostKey,
    SshHost,
    check_key,
    environment,
    options,
    unreachable,
    write_known_hosts,
)
from targets.devices.transport import ShellResult, Transport, lost
from targets.errors import DeviceError, EnvironmentFailure
from targets.files import disk_guard
from targets.process import ChildResult, Limits, run_limited

if TYPE_CHECKING:
    from collections.abc import Sequence

_OPEN_TIMEOUT_S: Final = 3 * CONNECT_TIMEOUT_S
_EXIT_TIMEOUT_S: Final = 5.0
_END_WAIT_S: Final = 2.0
_SLOW_BYTES_PER_S: Final = 50_000
_CONNECTION_FAILED: Final = 255
_POLL_S: Final = 0.02
_OLD_SCP: Final = ("scp", "-q", "-O")  # by scp itself there, for a server without sftp (dropbear on small systems)
_NO_SFTP: Final = b"Connection closed"  # what scp says of a refused subsystem, too
_PLAIN_FOLDER: Final = re.compile(r"/[A-Za-z0-9/_.-]{1,50}")  # a socket's whole path has at most 107 bytes


@final
class SshTransport(Transport):
    """Runs ``ssh`` and ``scp``; all that is not about safety is left to the user's ~/.ssh/config."""

    kind = "ssh"
    folder = ".edgepress"

    def __init__(self, name: str, host: SshHost, key: HostKey) -> None:
        self.name = name
        self._host = host
        self._key = key
        self._scp: tuple[str, ...] = ("scp", "-q")
        self._private: Path | None = None
        self._master: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Starts the master connection; see `Transport.open`."""
        for program in ("ssh", "scp"):
            if shutil.which(program) is None:
                raise EnvironmentFailure(
                    f"cannot reach device {self.name!r}", f"{program} is not installed", "install the OpenSSH client"
                )
        self.close()
        with disk_guard("making a private folder for ssh"):
            self._private = Path(tempfile.mkdtemp(prefix="edgepress-ssh-", dir=_short_folder()))
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the master connection and removes its private folder."""
        master, private = self._master, self._private
        self._master = self._private = None
        if master is not None and private is not None:
            if master.poll() is None:
                self._ask_to_exit(private)
            _end(master)
        if private is not None:
            shutil.rmtree(private, ignore_errors=True)

    def interactive(self, command: Sequence[str]) -> int:
        """Runs ``ssh`` on this terminal; 255 when the connection broke."""
        terminal = ["-tt"] if sys.stdin.isatty() else ["-T"]
        words = [shlex.join(command)] if command else []
        argv = ["ssh", *terminal, *self._client_options(), "--", self._host.host, *words]
        return subprocess.run(argv, check=False).returncode  # on the user's terminal, ended by the user

    def _shell(self, script: str, timeout_s: float, limit_bytes: int) -> ShellResult:
        command = f"exec sh -c {shlex.quote(script)}"
        argv = ["ssh", "-T", *self._client_options(), "--", self._host.host, command]
        done = self._run(argv, timeout_s, limit_bytes)
        if done.returncode == _CONNECTION_FAILED:
            raise lost(self.name, self._why_lost(done.stderr))
        return ShellResult(status=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def _push(self, local: Path, remote: str) -> None:
        timeout_s = 60 + local.stat().st_size / _SLOW_BYTES_PER_S
        self._copy(str(local), f"{self._scp_host()}:{remote}", timeout_s, None)

    def _pull(self, remote: str, local: Path, max_bytes: int) -> None:
        timeout_s = 60 + max_bytes / _SLOW_BYTES_PER_S
        self._copy(f"{self._scp_host()}:{remote}", str(local), timeout_s, max_bytes)

    def _copy(self, source: str, target: str, timeout_s: float, file_bytes: int | None) -> None:
        words = [*self._client_options(), *self._host.options(), "--", source, target]
        done = self._run([*self._scp, *words], timeout_s, 1 << 16, file_bytes)
        if done.returncode and _NO_SFTP in done.stderr and self._scp != _OLD_SCP and self._is_up():
            self._scp = _OLD_SCP
            done = self._run([*self._scp, *words], timeout_s, 1 << 16, file_bytes)
        if done.returncode == 0:
            return
        if not self._is_up():
            raise lost(self.name, self._why_lost(done.stderr))
        raise DeviceError(
            f"copying to or from device {self.name!r} failed",
            _last_line(done.stderr) or f"scp ended with {done.returncode}",
            "check that device's disk and permissions, and that it has sftp-server or scp, then run the same command"
            " again",
        )

    def _run(
        self, argv: Sequence[str], timeout_s: float, limit_bytes: int, file_bytes: int | None = None
    ) -> ChildResult:
        begin_s = time.monotonic()
        try:
            return run_limited(
                argv, limits=Limits(timeout_s=timeout_s, file_bytes=file_bytes), what=f"{argv[0]} to {self.name!r}",
                env=environment(), stdout_limit_bytes=limit_bytes,
            )  # fmt: skip
        except EnvironmentFailure as error:
            if time.monotonic() - begin_s >= timeout_s:
                raise lost(self.name, f"no answer for {timeout_s:.0f} s") from error
            raise DeviceError(f"device {self.name!r} sent too much", error.why, "see what runs there") from error

    def _start(self) -> None:
        """Starts the master; it dies with us, however we die."""
        assert self._private is not None
        known = self._private / "known_hosts"
        write_known_hosts(known, self.name, self._key)
        argv = [
            "ssh", "-M", "-N", "-T", "-a", "-x", *options(self.name, known),
            "-o", f"ControlPath={self._socket()}", *self._host.options(), "--", self._host.host,
        ]  # fmt: skip
        supervised = [sys.executable, "-I", "-S", child.__file__, "supervise"]
        with (self._private / "log").open("wb") as log, Path(os.devnull).open("wb") as report:
            limits = [str(report.fileno()), str(os.getpid()), str(child.UNLIMITED), str(child.UNLIMITED)]
            self._master = subprocess.Popen(
                [*supervised, *limits, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), **environment()}, start_new_session=True,
                pass_fds=[report.fileno()],
            )  # fmt: skip
        self._wait_for_socket()

    def _wait_for_socket(self) -> None:
        assert self._master is not None
        end_s = time.monotonic() + _OPEN_TIMEOUT_S
        while not self._socket().exists():
            ended = self._master.poll() is not None
            if ended or time.monotonic() > end_s:
                log = self._log()
                if "Host key verification failed" in log:
                    check_key(self.name, self._host, self._key)
                raise unreachable(self.name, self._host, log if ended else f"no answer for {_OPEN_TIMEOUT_S} s")
            time.sleep(_POLL_S)

    def _client_options(self) -> list[str]:
        """Goes through our master or nowhere: without it, ssh would connect anew, by the user's rules."""
        return [
            "-o", f"ControlPath={self._socket()}", "-o", "ControlMaster=no", "-o", "ProxyCommand=false",
            "-o", "BatchMode=yes", "-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes",
            "-o", "ForwardAgent=no", "-o", "ForwardX11=no",
        ]  # fmt: skip

    def _socket(self) -> Path:
        if self._private is None:
            raise lost(self.name, "the connection is closed")
        return self._private / "mux"

    def _scp_host(self) -> str:
        user, at, address = self._host.host.rpartition("@")
        return f"{user}{at}[{address}]" if ":" in address else self._host.host

    def _is_up(self) -> bool:
        if self._master is None:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._master.wait(0.5)  # a client may notice the end of the connection before its master has ended
        return self._master.poll() is None

    def _why_lost(self, stderr: bytes) -> str:
        self._is_up()
        log = self._log()
        if "not responding" in log:
            return f"no answer for {ALIVE_INTERVAL_S * ALIVE_COUNT} s"
        said = _last_line(log.encode()) or _last_line(stderr)
        return f"the connection broke ({said})" if said else "the connection broke"

    def _log(self) -> str:
        if self._private is None:
            return ""
        try:
            return (self._private / "log").read_text(encoding="utf-8", errors="replace")[-4096:]
        except OSError:
            return ""

    def _ask_to_exit(self, private: Path) -> None:
        argv = ["ssh", "-o", f"ControlPath={private / 'mux'}", "-O", "exit", "--", self._host.host]
        with contextlib.suppress(EnvironmentFailure):
            run_limited(argv, limits=Limits(timeout_s=_EXIT_TIMEOUT_S), what="ssh -O exit", env=environment())


def _end(master: subprocess.Popen[bytes]) -> None:
    """Ends the master's whole process group and reaps it."""
    try:
        master.wait(_END_WAIT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(master.pid, signal.SIGKILL)
        master.wait()


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if _PLAIN_FOLDER.fullmatch(folder) else "/tmp"  # noqa: S108 - made private by mkdtemp


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return printable(lines[-1]).strip()[:300] if lines else ""
