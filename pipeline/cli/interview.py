"""The questions of ``init``: each has an option that answers it, and a default that is mostly right."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import click

from pipeline.tasks import TASKS

if TYPE_CHECKING:
    from pipeline.assist.init import Answers

_MOST_FILES: Final = 200
_MOST_BYTES: Final = 1 << 20
_WEIGHTS: Final = (".safetensors", ".pt", ".pth")


@final
class ImageSize(click.ParamType[tuple[int, int]]):
    """``224x224``."""

    name = "HxW"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Height and width."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) not in {1, 2} or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
            self.fail(f"{value!r} is no size: write e.g. 224x224", param, ctx)
        return int(parts[0]), int(parts[-1])


def ask_sources(answers: Answers, folder: Path) -> Answers:
    """Asks where model and data are, where no option said so.

    Args:
        answers: What options said.
        folder: Where the recipe will lie; paths are relative to it.
    """
    if not (answers.model or answers.onnx):
        answers = _model(answers, folder)
    if answers.model and not answers.weights:
        answers = _weights(answers, folder)
    if not (answers.data or answers.npz or answers.images):
        answers = _data(answers, folder)
    return answers


def ask_goals(
    answers: Answers, *, task: str | None, target: str | None, drop: float | None, latency: float | None
) -> Answers:
    """Asks what the model is for, where it runs and what it may cost; what is not None was said already."""
    if task is None:
        kind = click.Choice([*TASKS])
        chosen = click.prompt("What the model is for", type=kind, default=answers.task, err=True)
        answers = replace(answers, task=str(chosen))
    if target is None:
        answers = replace(answers, target=_asked("Target (edgepress targets list)", _target, default="host"))
    if drop is None:
        share = click.FloatRange(0, 1)
        found = click.prompt("Largest loss of the metric that may ship", type=share, default=0.01, err=True)
        answers = replace(answers, accuracy_drop=float(found))
    if latency is None:
        found = click.prompt("Latency ceiling in ms (0: none)", type=click.FloatRange(0), default=0.0, err=True)
        answers = replace(answers, latency_ms=float(found) or None)
    return answers


def _model(answers: Answers, folder: Path) -> Answers:
    there = [*_files(folder, (".onnx",)), *_functions(folder, ("net", "model"))]
    said = _asked("Model: file.py:function, or an .onnx file", lambda text: _source(text, folder, (".onnx",)), there)
    return replace(answers, onnx=said) if said.endswith(".onnx") else replace(answers, model=said)


def _weights(answers: Answers, folder: Path) -> Answers:
    there = [*_files(folder, _WEIGHTS), "none"]
    question = "Trained weights (none: train them first)"
    said = _asked(question, lambda text: text if text == "none" else _file(text, folder, _WEIGHTS), there)
    return answers if said == "none" else replace(answers, weights=said)


def _data(answers: Answers, folder: Path) -> Answers:
    there = [*_files(folder, (".npz",)), *_functions(folder, ("data", "load"))]
    question = "Data: file.py:function, an .npz file, or a folder of images"
    said = _asked(question, lambda text: _data_source(text, folder), there)
    if said.endswith(".npz"):
        return replace(answers, npz=said)
    if (folder / said).is_dir():
        size = click.prompt("Height and width of the images", type=ImageSize(), default="224x224", err=True)
        return replace(answers, images=said, image_size=size)
    return replace(answers, data=said)


def _asked(question: str, check: Callable[[str], str], there: Sequence[str] = (), *, default: str | None = None) -> str:
    """Asks until the answer holds; the first of what is there is the default."""
    from targets.errors import EdgepressError

    if len(there) > 1:
        click.echo(f"  found: {', '.join(there[:8])}", err=True)
    while True:
        said = str(click.prompt(question, default=default or next(iter(there), None), err=True)).strip()
        try:
            return check(said)
        except EdgepressError as error:
            click.echo(f"  {error.what}: {error.why}; {error.fix}", err=True)


def _target(text: str) -> str:
    from targets.profile import load_profile

    load_profile(text)
    return text


def _data_source(text: str, folder: Path) -> str:
    return text if (folder / text).is_dir() else _source(text, folder, (".npz",))


def _source(text: str, folder: Path, endings: Sequence[str]) -> str:
    """A file with such an ending, or a factory."""
    from pipeline.usercode import find_factory
    from targets.errors import Fault, InputError

    if text.endswith(tuple(endings)):
        return _file(text, folder, endings)
    found = find_factory(text, folder, {}, "it")
    if isinstance(found, Fault):
        raise InputError(text, found.what, found.fix)
    return text


def _file(text: str, folder: Path, endings: Sequence[str]) -> str:
    from targets.errors import InputError, nearest

    if not text.endswith(tuple(endings)) or not (folder / text).is_file():
        there = _files(folder, endings)
        raise InputError(text, "there is no such file", nearest(text, there) if there else "give its path")
    return text


def _files(folder: Path, endings: Sequence[str]) -> list[str]:
    """Names of files in the folder, the newest first."""
    found = [path for path in sorted(folder.iterdir())[:_MOST_FILES] if path.suffix in endings and path.is_file()]
    return [path.name for path in sorted(found, key=lambda path: -path.stat().st_mtime)]


def _functions(folder: Path, words: Sequence[str]) -> list[str]:
    """``file.py:function`` of top-level functions that sound like it, found without running anything."""
    found: list[tuple[int, str]] = []
    for name in _files(folder, (".py",)):
        path = folder / name
        if path.stat().st_size > _MOST_BYTES:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                likely = sum(word in part.lower() for word in words for part in (node.name, name))
                found.append((-likely, f"{name}:{node.name}"))
    return [reference for likely, reference in sorted(found) if likely < 0]
