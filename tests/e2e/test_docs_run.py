"""The quick start and the page of one's own model, executed as they stand."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

PAGE = Path(__file__).parents[2] / "docs" / "start.md"
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
NEEDS_MORE = ("devices add", "--device pi")
"""Commands that need a board of the reader's: parsed by tests/unit/test_docs_commands.py, executed by nobody."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The reader's folder, as the page assumes it."""
    folder = tmp_path / "net"
    folder.mkdir()
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


def _commands() -> list[str]:
    """Every edgepress command of the page, in its order; inline ones too."""
    text = PAGE.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```\w*\n(.*?)^```|`(edgepress [^`\n]+)`", text, re.DOTALL | re.MULTILINE):
        lines = match[1].splitlines() if match[1] else [match[2]]
        found += [line for line in lines if re.match(r"(\S*/)?edgepress ", line)]
    return [line.partition("  #")[0].strip() for line in found]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_quick_start_does_what_it_says(home: Path, edgepress_program: Path, cache: Path) -> None:
    """Each command of docs/start.md exits with 0 where the page says to call it; campaigns are shortened, no more."""

    def call(*words: str) -> None:
        environment = {**os.environ, "EDGEPRESS_CACHE": str(cache)}
        ended = subprocess.run(
            [edgepress_program, *words], cwd=home, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, (words, ended.stderr)

    done = []
    for line in _commands():
        if any(word in line for word in NEEDS_MORE) or line.partition("edgepress ")[2] == "init":
            continue
        words = shlex.split(line)[1:]
        if words[0] == "run":
            words += ["--set", "benchmark.budget_s=8", "--set", "benchmark.layers=true"]
        if "net.onnx" in words:  # a second model, hence a second recipe
            call("export", "recipe.toml", "--out", "float")
            shutil.copy(home / "float" / "host" / "export" / "model.onnx", home / "net.onnx")
            words += ["--out", "onnx.toml"]
        call(*words)
        done.append(words[0])
    assert {"doctor", "init", "plan", "run", "targets", "explain", "completion"} <= set(done)
    assert (home / "out" / "net" / "host" / "report.html").is_file()
    call("run", "onnx.toml", "--set", "benchmark.budget_s=8", "--out", "second")
