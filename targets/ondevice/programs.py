"""Runs a board maker's own little program (vcgencmd, nvpmodel), where it is installed, with a limit on time."""

from __future__ import annotations

import os
import subprocess

from .kernelfiles import Tree

_FOLDERS = ("/usr/bin", "/usr/sbin", "/opt/vc/bin", "/bin", "/sbin")
_LIMIT_S = 2.0


def output_of(tree: Tree, name: str, *arguments: str) -> str | None:
    """What the program prints; None where it is missing, fails or takes longer than two seconds.

    It is looked for in fixed system folders under the tree's root, never in PATH.
    """
    program = find_program(tree, name)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_LIMIT_S,
            check=True,
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()


def find_program(tree: Tree, name: str) -> str | None:
    """Where the program lies, or None."""
    for folder in _FOLDERS:
        path = str(tree.path(f"{folder}/{name}"))
        if os.access(path, os.X_OK):
            return path
    return None
