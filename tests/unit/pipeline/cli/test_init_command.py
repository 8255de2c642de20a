"""The interview and the flags of init: every question has an option, and without a terminal none is asked."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.assist.survey import guess_task
from pipeline.cli import init as command
from pipeline.data.dataset import Split

NET = "def make_net():\n    return None\n\n\ndef _hidden():\n    return None\n"
DATA = "def load_data():\n    return {}\n"


@dataclass(frozen=True)
class Done:
    result: Result
    written: str

    @property
    def recipe(self) -> dict[str, Any]:
        assert self.result.exit_code == 0, self.result.output
        return tomllib.loads(self.written)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    for name, text in (("net.py", NET), ("data.py", DATA), ("weights.pt", ""), ("d.npz", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, said: str = "") -> Done:
        result = CliRunner().invoke(command.init, ["--no-inspect", *arguments], input=said)
        path = tmp_path / "recipe.toml"
        return Done(result, path.read_text(encoding="utf-8") if path.exists() else "")

    return call


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "attended", lambda: True)


@pytest.mark.usefixtures("attended")
def test_wrong_answers_are_asked_again_with_the_nearest_name(run: Callable[..., Done]) -> None:
    """A misspelt function and target are told with the nearest one; the recipe holds what was said in the end."""
    said = ["net.py:make_nett", "net.py:make_net", "", "data.py:load_data", "regression", "hos", "host", "0.02", "3"]
    done = run(said="\n".join(said) + "\n")
    assert "did you mean 'make_net'" in done.result.output
    assert "did you mean 'host'" in done.result.output
    recipe = done.recipe
    assert recipe["model"] == {"factory": "net.py:make_net", "weights": "weights.pt"}
    assert recipe["data"] == {"factory": "data.py:load_data"}
    assert (recipe["task"], recipe["targets"]) == ("regression", ["host"])
    assert recipe["budget"] == {"accuracy_drop": 0.02, "latency_ms": 3.0}


@pytest.mark.usefixtures("attended")
def test_what_an_option_says_is_not_asked(run: Callable[..., Done]) -> None:
    """With every option given, nothing is read from the terminal."""
    options = ["--model", "net.py:make_net", "--data", "data.py:load_data", "--task", "classification"]
    done = run(*options, said="")
    assert "?" not in done.result.output
    assert done.recipe["train"]


@pytest.mark.usefixtures("attended")
def test_images_ask_for_their_size(run: Callable[..., Done]) -> None:
    """A folder of images becomes a section of its own."""
    done = run("--model", "net.py:make_net", "--weights", "weights.pt", said="pictures\nlarge\n32x48\n\n\n\n\n")
    assert done.recipe["data"]["images"] == {"folder": "pictures", "size": [32, 48]}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "--onnx"), (["--model", "net.py:make_net"], "--npz"), (["--images", "pictures"], "--model"),
        (["--model", "net.py:make_net", "--images", "pictures"], "--image-size"),
    ],
)  # fmt: skip
def test_without_a_terminal_it_never_asks(arguments: list[str], word: str, run: Callable[..., Done]) -> None:
    """What lacks is an error that names the option, and no question that nobody answers."""
    done = run(*arguments, said="net.py:make_net\n")
    assert done.result.exit_code == 1
    error = done.result.exception
    assert word in f"{getattr(error, 'what', '')} {getattr(error, 'fix', '')}"
    assert not done.written


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (None, "fidelity"), (np.zeros(4, np.int64), "classification"), (np.zeros((4, 8, 8), np.uint8), "segmentation"),
        (np.zeros((4, 3), np.float32), "regression"), (np.zeros((4, 9, 5), np.float32), "detection"),
    ],
)  # fmt: skip
def test_the_task_is_what_the_labels_look_like(labels: np.ndarray | None, task: str) -> None:
    """The guess that the question offers."""
    assert guess_task(Split(inputs={"x": np.zeros((4, 2), np.float32)}, labels=labels)) == task
