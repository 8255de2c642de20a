"""The commands of the documentation, executed as they stand, page by page, in a folder like the reader's."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

ROOT: Final = Path(__file__).parents[2]
NET = """
import torch


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv1(x))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.layer1 = torch.nn.Sequential(Block(), Block())
        self.head = torch.nn.Linear(8, 3)

    def forward(self, image):
        return self.head(self.layer1(torch.relu(self.stem(image))).mean((2, 3)))


def make_net():
    return Net()
"""
DATA = """
import numpy as np


def make_data():
    rng = np.random.default_rng(0)

    def split(count):
        labels = rng.integers(0, 3, count)
        images = rng.normal(0, 0.1, (count, 1, 8, 8)).astype(np.float32)
        images[np.arange(count), 0, labels * 2] += 1
        return images, labels

    return {"train": split(128), "validation": split(64), "test": split(64)}
"""
NOT_RUN: Final = {
    r"--device |devices (add|facts) |/raspberry-pi-5/bundle ": "needs a board of the reader's",
    r"cifar10": "needs weights and data that are no part of the repository",
    r" (RECIPE|NAME|BUNDLE|FILE)\b| A B$": "a word in capitals stands for the reader's own",
    r"^edgepress (run|search|explain|layers|measure|devices add)$": "the name of a command, no call",
    r"^edgepress init$": "an interview, which tests/unit/pipeline/cli/test_init_command.py holds",
}
"""What is parsed only (tests/unit/test_docs_commands.py), and why; whatever none of these finds is executed."""
SHORTER: Final = {
    "run": "--set benchmark.budget_s=8 --set benchmark.layers=true",
    "search": "--trials 2 --set benchmark.budget_s=8",
    "measure": "--budget-s 8",
    "targets probe": "--budget-s 20",
}
"""Campaigns and searches take as long as they are given; nothing else is changed."""
MADE: Final = {
    "recipe.toml": "edgepress init --model net.py:make_net --weights net.safetensors --data data.py:make_data",
    "net.onnx": "edgepress export recipe.toml --out float && cp float/host/export/model.onnx net.onnx",
    "my-net.onnx": "cp net.onnx my-net.onnx",
    "out/net/host": "edgepress run recipe.toml --set benchmark.budget_s=8",
    "out/a/host": "mkdir -p out/a && cp -r out/digits/host out/a",
    "out/b/host": "mkdir -p out/b && cp -r out/digits/host out/b",
}
"""What a page takes for granted, and how the reader came by it."""


def _collected() -> list[tuple[str, str]]:
    """(page, command) of all the documentation, as the test that parses them finds them."""
    place = ROOT / "tests" / "unit" / "test_docs_commands.py"
    spec = importlib.util.spec_from_file_location("docs_commands", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    said = [(page, line.partition("  #")[0].strip()) for page, line in module._commands()]
    return [(page, re.sub(r"^(\$ )?(\S*/)?edgepress", "edgepress", line)) for page, line in said]


COMMANDS: Final = _collected()
RUN: Final = [(page, line) for page, line in COMMANDS if not any(re.search(pattern, line) for pattern in NOT_RUN)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The reader's folder, as the pages assume it."""
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "net.py").write_text(NET, encoding="utf-8")
    (folder / "data.py").write_text(DATA, encoding="utf-8")
    scope: dict[str, object] = {}
    exec(compile(NET, "net.py", "exec"), scope)
    torch.manual_seed(0)
    make = scope["make_net"]
    assert callable(make)
    net = make()
    save_file(net.state_dict(), folder / "net.safetensors")
    rng = np.random.default_rng(1)
    np.savez(folder / "data.npz", image=rng.normal(0, 1, (200, 1, 8, 8)).astype(np.float32))
    return folder


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_what_is_not_executed_is_there(pattern: str) -> None:
    """Promise: the list of what is parsed only names commands that the documentation has."""
    assert any(re.search(pattern, line) for _, line in COMMANDS)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", list(dict.fromkeys(page for page, _ in RUN)))
def test_a_page_does_what_it_says(page: str, home: Path, edgepress_program: Path, cache: Path) -> None:
    """Promise: each command of the page that needs nothing but this machine exits with 0, in the page's order."""
    environment = {
        **os.environ,
        "EDGEPRESS_CACHE": str(cache),
        "PATH": f"{edgepress_program.parent}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(home / "summary.md"),
    }

    def call(line: str) -> None:
        ended = subprocess.run(
            ["bash", "-c", line], cwd=home, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, (line, ended.stderr)

    def need(line: str, making: str = "") -> None:
        for name, made_by in MADE.items():
            mentioned = name != making and re.search(rf"(?<![\w/.-]){re.escape(name)}", line)
            writes = name == "recipe.toml" and line.startswith("edgepress init")
            if mentioned and not writes and not (home / name).exists():
                need(made_by, name)
                call(made_by)

    for line in dict.fromkeys(line for own, line in RUN if own == page):
        command, shell, rest = _split(line)
        if "--onnx" in command:  # a second model, hence a second recipe
            command += " --out onnx.toml"
        command += "".join(f" {more}" for name, more in SHORTER.items() if command.startswith(f"edgepress {name} "))
        need(command)
        call(f"{command} {shell} {rest}")


def _split(line: str) -> tuple[str, str, str]:
    """The command, and where its output goes; what another program does with it is that program's."""
    found = re.match(r"(.*?)(?:\s+(>>?)\s+(.*)|\s+\|.*)?$", line)
    assert found is not None
    return found[1], found[2] or "", found[3] or ""
