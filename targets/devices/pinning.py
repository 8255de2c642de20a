"""Which ssh host this is: its key is asked for once, confirmed by a person, and from then on the only one accepted."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from targets.errors import DeviceError, EnvironmentFailure, InputError, RefusedError
from targets.files import disk_guard, write_new
from targets.process import Limits, run_limited

if TYPE_CHECKING:
    from collections.abc import Sequence

CONNECT_TIMEOUT_S: Final = 10
ALIVE_INTERVAL_S: Final = 5
ALIVE_COUNT: Final = 3
_PATTERN: Final = re.compile(r"[A-Za-z0-9._@\[\]:][A-Za-z0-9._:@\[\]-]{0,254}")
_KEY: Final = re.compile(r"([a-z0-9@.-]{1,64}) ([A-Za-z0-9+/=]{16,4096})")
_MAX_PORT: Final = 65535
_PASSED: Final = ("HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK", "SSH_SK_PROVIDER", "KRB5CCNAME", "XDG_RUNTIME_DIR")
_COMMON: Final = {
    "BatchMode": "yes",
    "GlobalKnownHostsFile": "none",
    "KnownHostsCommand": "none",
    "VerifyHostKeyDNS": "no",
    "CheckHostIP": "no",
    "UpdateHostKeys": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "Tunnel": "no",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ControlPersist": "no",
    "ConnectTimeout": str(CONNECT_TIMEOUT_S),
    "ServerAliveInterval": str(ALIVE_INTERVAL_S),
    "ServerAliveCountMax": str(ALIVE_COUNT),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SshHost:
    """Where a device is reached: ``[user@]host`` as ssh takes it, and a port, None for that of ssh's configuration."""

    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> SshHost:
        """Reads ``[user@]host[:port]`` (an IPv6 address with a port: ``user@[::1]:22``).

        Raises:
            RefusedError: It could be read as something else than a host, such as an option of ssh.
            InputError: The port is not one.
        """
        user, at, place = text.rpartition("@")
        address, port = _split_port(place)
        plain = address and not address.startswith("-") and {"[", "]"}.isdisjoint(user + address)
        if not _PATTERN.fullmatch(text) or not plain:
            raise RefusedError(
                f"refused {text!r} as a host",
                "a host has letters, digits and ._:@- only, brackets around IPv6, and does not start with -",
                "give [user@]host[:port], or a Host of your ~/.ssh/config",
            )
        if port and not (port.isdigit() and 1 <= int(port) <= _MAX_PORT):
            raise InputError(f"{port!r} is no port", "it is not 1 to 65535", "give [user@]host[:port]")
        return cls(host=f"{user}{at}{address}", port=int(port) if port else None)

    def options(self) -> list[str]:
        """The port as words for ssh and scp."""
        return [] if self.port is None else ["-o", f"Port={self.port}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """A public host key, as a line of known_hosts has it: type and base64 text."""

    kind: str
    text: str

    @classmethod
    def parse(cls, line: str) -> HostKey:
        """Reads ``type base64``.

        Raises:
            ValueError: It is no key.
        """
        found = _KEY.fullmatch(line)
        if found is None:
            raise ValueError("it is no host key")
        try:
            base64.b64decode(found[2], validate=True)
        except binascii.Error as error:
            raise ValueError("it is no host key") from error
        return cls(kind=found[1], text=found[2])

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"

    @property
    def fingerprint(self) -> str:
        """As ``ssh-keygen -l`` shows it: ``SHA256:`` and the unpadded base64 of the key's sha256."""
        digest = hashlib.sha256(base64.b64decode(self.text)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def collect_key(name: str, host: SshHost) -> HostKey:
    """Asks a host for its key, without logging in: nothing of ours is offered to a host that nobody confirmed.

    Raises:
        DeviceError: It cannot be reached.
        EnvironmentFailure: ssh is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
        known = Path(folder, "known_hosts")
        argv = [
            "ssh", "-T", "-a", "-x", *options(name, known, strict="accept-new"),
            "-o", "PreferredAuthentications=none", "-o", "ControlMaster=no", "-o", "ControlPath=none",
            *host.options(), "--", host.host, "exit",
        ]  # fmt: skip
        stderr = run_ssh(argv, name, timeout_s=4 * CONNECT_TIMEOUT_S)
        try:
            line = known.read_text(encoding="utf-8").splitlines()[0]
            return HostKey.parse(line.partition(" ")[2])
        except (OSError, IndexError, ValueError) as error:
            raise unreachable(name, host, stderr) from error


def check_key(name: str, host: SshHost, trusted: HostKey) -> None:
    """Says what is wrong after ssh refused a host's key.

    Raises:
        RefusedError: The host's key is not the trusted one.
    """
    found = collect_key(name, host)
    raise RefusedError(
        f"the host key of {name!r} CHANGED",
        f"it was {trusted.fingerprint}, now it is {found.fingerprint}: possible interception, or the device was set up"
        " anew",
        f"if it was: compare with `ssh-keygen -lf` on the device, then edgepress devices trust {name}"
        f" --fingerprint {found.fingerprint}",
    )


def write_known_hosts(path: Path, name: str, key: HostKey) -> None:
    """The file that holds exactly the trusted key, under the name that `options` looks for."""
    with disk_guard(f"writing {path}"):
        write_new(path, f"{_alias(name)} {key}\n".encode(), 0o600)


def options(name: str, known_hosts: Path, *, strict: str = "yes") -> list[str]:
    """The words that make ssh check for exactly our key, ask nothing and forward nothing."""
    settings = _COMMON | {
        "StrictHostKeyChecking": strict,
        "HostKeyAlias": _alias(name),
        "HashKnownHosts": "no",
        "UserKnownHostsFile": f'"{str(known_hosts).replace("%", "%%")}"',
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def environment() -> dict[str, str]:
    """What ssh may know of our environment: its user's home and agent."""
    return {name: os.environ[name] for name in _PASSED if name in os.environ}


def run_ssh(argv: Sequence[str], name: str, *, timeout_s: float) -> str:
    """Runs ssh to its end, whatever that is, and returns what it said.

    Raises:
        EnvironmentFailure: It is not installed.
        DeviceError: It did not end.
    """
    try:
        child = run_limited(argv, limits=Limits(timeout_s=timeout_s), what=f"{argv[0]} to {name!r}", env=environment())
    except EnvironmentFailure as error:
        if "could not be started" in error.what:
            raise
        raise DeviceError(f"device {name!r} cannot be reached", error.why, "check that it is up") from error
    return child.stderr.decode("utf-8", "replace")


def unreachable(name: str, host: SshHost, stderr: str) -> DeviceError:
    """The error for a host that does not answer, or lets nobody in, by what ssh said."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = "".join(c if c.isprintable() else " " for c in lines[-1])[:300] if lines else "ssh said nothing"
    fix = f"check that `ssh {host.host}` works, then run the same command again"
    if "Permission denied" in stderr:
        fix = f"let a key log you in without a question: ssh-copy-id {host.host}, or ssh-add the key to an agent"
    return DeviceError(f"device {name!r} cannot be reached", last, fix)


def _alias(name: str) -> str:
    return f"edgepress-{name}"


def _split_port(place: str) -> tuple[str, str]:
    if place.startswith("["):
        address, _, rest = place[1:].partition("]")
        return address, rest.removeprefix(":")
    address, colon, port = place.rpartition(":")
    return (address, port) if colon and ":" not in address else (place, "")
