"""Host keys and addresses: read as ssh reads them, or not at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.devices.pinning import HostKey, SshHost, options
from targets.errors import InputError, RefusedError


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_fingerprints_are_those_of_ssh_keygen(tmp_path: Path, kind: str) -> None:
    """The fingerprint that a person compares is the one that ssh itself shows."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", tmp_path / "key"], check=True)
    shown = subprocess.run(["ssh-keygen", "-lf", tmp_path / "key.pub"], capture_output=True, text=True, check=True)
    key = HostKey.parse(" ".join((tmp_path / "key.pub").read_text().split()[:2]))
    assert key.fingerprint == shown.stdout.split()[1]


@pytest.mark.parametrize("line", ["", "ssh-rsa", "ssh-rsa !!!!!!!!!!!!!!!!!!", "a b c", "ssh-rsa AAAAAAAAAAAAAAAAA\nx"])
def test_other_text_is_no_key(line: str) -> None:
    """A line that is no key is never written into a known_hosts file."""
    with pytest.raises(ValueError, match="no host key"):
        HostKey.parse(line)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("board", "board", None),
        ("pi@board:2222", "pi@board", 2222),
        ("pi@10.0.0.7", "pi@10.0.0.7", None),
        ("pi@[fe80::1]:22", "pi@fe80::1", 22),
        ("[::1]", "::1", None),
        ("::1", "::1", None),
    ],
)
def test_addresses_are_read(text: str, host: str, port: int | None) -> None:
    """User, host and port are told apart, IPv6 included."""
    assert SshHost.parse(text) == SshHost(host=host, port=port)


@pytest.mark.parametrize("text", ["board:0", "board:65536", "board:ssh"])
def test_other_ports_are_refused(text: str) -> None:
    """A port is a number that ports have."""
    with pytest.raises(InputError, match="port"):
        SshHost.parse(text)


@given(st.text(max_size=40) | st.text("a@[]:-.1", max_size=12) | st.from_regex(r"-[a-z]?[ -~]{0,20}", fullmatch=True))
@settings(max_examples=300, deadline=None)
def test_no_host_is_an_option(text: str) -> None:
    """Whatever is given, what comes out is plain, and starts with no dash on either side of the @."""
    try:
        host = SshHost.parse(text).host
    except (RefusedError, InputError):
        return
    assert host
    assert not any(part.startswith("-") for part in host.split("@"))
    assert all(char.isalnum() or char in "._:@-" for char in host)
    assert host.isascii()


def test_every_connection_is_strict() -> None:
    """Keys are checked against our file alone, nothing is asked, forwarded or learned."""
    words = options("pi4", Path("/tmp/k%h x"))
    settings_ = dict(word.split("=", 1) for word in words[1::2])
    assert set(words[::2]) == {"-o"}
    assert settings_["StrictHostKeyChecking"] == "yes"
    assert settings_["UserKnownHostsFile"] == '"/tmp/k%%h x"'
    assert settings_["GlobalKnownHostsFile"] == settings_["KnownHostsCommand"] == "none"
    assert settings_["HostKeyAlias"] == "edgepress-pi4"
    assert settings_["BatchMode"] == "yes"
    for name in ("UpdateHostKeys", "ForwardAgent", "ForwardX11", "PermitLocalCommand", "Tunnel", "VerifyHostKeyDNS"):
        assert settings_[name] == "no"
    assert (settings_["ConnectTimeout"], settings_["ServerAliveInterval"], settings_["ServerAliveCountMax"]) == (
        "10",
        "5",
        "3",
    )


def test_ways_around_the_check_are_absent(repository: Path) -> None:
    """No line of the product turns the check of host keys off."""
    banned = (
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "AutoAddPolicy",
        '"StrictHostKeyChecking": "no"',
    )
    wrong = [
        f"{path.name}: {text}"
        for package in ("targets", "pipeline")
        for path in (repository / package).rglob("*.py")
        for text in banned
        if text in path.read_text(encoding="utf-8")
    ]
    assert not wrong
