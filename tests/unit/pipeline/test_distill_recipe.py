"""`[distill]` in recipes: what is wrong is told before anything runs, each fault where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.compose import compose
from pipeline.recipe import load_recipe
from pipeline.recipe.lessons import losses_of
from targets.errors import InputError
from targets.profile import load_profile

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """
task = "classification"
[model]
factory = "user.py:net"
[data]
factory = "user.py:data"
[train]
epochs = 1
"""
PRUNE = "[prune]\nratio = 0.5\n"
DISTILL = "[distill]\nepochs = 1\n"
OTHERS = '[[distill.teachers]]\nname = "a"\ndense = true\n[[distill.teachers]]\nname = "b"\nonnx = "b.onnx"\n'


def _loss(kind: str, more: str = "") -> str:
    return f'[[distill.losses]]\nkind = "{kind}"\n{more}\n'


def _faults(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    (tmp_path / "recipe.toml").write_text(HEAD + text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_recipe(tmp_path, overrides)
    return [str(fault) for fault in error.value.faults]


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        (f"{DISTILL}losses = []\n", "distill.losses", "empty list"),
        (f"{DISTILL}teachers = []\n", "distill.teachers", "empty list"),
        (f"{DISTILL}alpha = 0.1\n{_loss('soft-targets')}", "distill.alpha", "short form"),
        (f"{DISTILL}temperature = 2\n{_loss('soft-targets')}", "distill.temperature", "short form"),
        (DISTILL + _loss("hint"), "distill.losses.0", "no module is named"),
        (DISTILL + _loss("attention"), "distill.losses.0", "no module is named"),
        (DISTILL + _loss("hnt"), "distill.losses.0.kind", "'hint'"),
        (DISTILL + _loss("hint", 'studnt = "a"'), "distill.losses.0.studnt", "'student'"),
        (DISTILL + _loss("soft-targets", "temperature = 0"), "distill.losses.0.temperature", "greater than 0"),
        (DISTILL + _loss("soft-targets", "weight = -1"), "distill.losses.0.weight", "greater than 0"),
        (DISTILL + _loss("soft-targets", 'of = "c"'), "distill.losses.0.of", "only teacher"),
        (DISTILL + OTHERS + _loss("similarity", 'student = "x"'), "distill.losses.0.of", "several teachers"),
        (DISTILL + OTHERS + _loss("soft-targets", 'of = "c"'), "distill.losses.0.of", "no teacher 'c'"),
        (DISTILL + OTHERS + _loss("squared-error"), "distill.losses.0", 'average = "logits"'),
        (DISTILL + OTHERS + _loss("hint", 'student = "x"\nof = "b"'), "distill.losses.0.teacher", "tensors"),
        (f'{DISTILL}[[distill.teachers]]\nname = "a"\n', "distill.teachers.0", "is nobody"),
        (f'{DISTILL}[[distill.teachers]]\nname = "a"\ndense = true\nonnx = "b"\n', "distill.teachers.0", "at once"),
        (f'{DISTILL}[[distill.teachers]]\nname = "A!"\ndense = true\n', "distill.teachers.0.name", "pattern"),
        (f'{DISTILL}[[distill.teachers]]\nname = "a"\nfactory = "u:f"\n', "distill.teachers.0.weights", "noise"),
        (
            f'{DISTILL}[[distill.teachers]]\nname = "a"\nonnx = "b"\nweights = "w"\n',
            "distill.teachers.0.weights",
            "only",
        ),
        (DISTILL + OTHERS.replace('"b"\n', '"a"\n'), "distill.teachers.1.name", "taken"),
        (f'{DISTILL}[distill.student]\nfactory = "u:f"\n', "distill.student", "[prune]"),
        (f"{DISTILL}[distill.student]\n", "distill.student.factory", "missing"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, text: str, where: str, words: str) -> None:
    """Promise: dotted path, what is wrong and what would mend it; nothing is guessed."""
    (fault,) = [fault for fault in _faults(tmp_path, PRUNE + text) if fault.startswith(f"{where}: ")]
    assert words in fault


def test_a_model_does_not_learn_from_itself(tmp_path: Path) -> None:
    """Promise: without a change, another teacher or another student, there is nothing to distil; with one, there is."""
    assert "from itself" in _faults(tmp_path, DISTILL)[0]
    (tmp_path / "recipe.toml").write_text(HEAD + DISTILL + OTHERS + _loss("labels"), encoding="utf-8")
    assert load_recipe(tmp_path).distill


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{DISTILL}alpha = 0.3\n", "needs labels"),
        (DISTILL + _loss("labels"), "needs labels"),
        (DISTILL + _loss("decoupled"), "needs labels"),
    ],
)
def test_losses_on_labels_need_labels(tmp_path: Path, text: str, words: str) -> None:
    """Promise: a task without labels refuses what compares with them, with the reason."""
    text = PRUNE + text
    assert any(words in fault for fault in _faults(tmp_path, text, 'task="fidelity"'))


def test_the_short_form_is_two_losses(tmp_path: Path) -> None:
    """Promise: alpha weighs the labels, the rest soft targets; outputs that are no scores are compared squared."""
    (tmp_path / "recipe.toml").write_text(f"{HEAD}{PRUNE}{DISTILL}alpha = 0.25\ntemperature = 3\n", encoding="utf-8")
    distill = load_recipe(tmp_path).distill
    assert distill is not None
    hard, soft = losses_of(distill, "classification")
    assert (hard.kind, hard.weight, soft.kind, soft.weight) == ("labels", 0.25, "soft-targets", 0.75)
    assert soft.model_dump()["temperature"] == 3
    assert [loss.kind for loss in losses_of(distill, "regression")] == ["labels", "squared-error"]
    assert [loss.kind for loss in losses_of(distill, "fidelity")] == ["squared-error"]


def test_missing_people_are_all_told_at_once(tmp_path: Path) -> None:
    """Promise: files and functions of teachers and student are looked for before anything runs, every one."""
    (tmp_path / "user.py").write_text("def net(): ...\ndef data(): ...\n", encoding="utf-8")
    text = (
        f'{DISTILL}[distill.student]\nfactory = "none.py:net"\n[[distill.teachers]]\nname = "a"\nonnx = "a.onnx"\n'
        '[[distill.teachers]]\nname = "b"\nfactory = "user.py:nte"\nweights = "b.pt"\n'
    )
    (tmp_path / "recipe.toml").write_text(HEAD + text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        compose(load_recipe(tmp_path), load_profile("host"))
    assert [fault.where for fault in error.value.faults] == [
        "distill.student.factory",
        *("distill.teachers.0.onnx", "distill.teachers.1.factory", "distill.teachers.1.weights"),
    ]


def test_who_takes_part_is_in_the_plan_and_no_path_in_a_key(tmp_path: Path) -> None:
    """Promise: teachers and student have nodes of their own; moving their files changes no configuration."""
    from pipeline.stages.base import configuration

    (tmp_path / "user.py").write_text("def net(): ...\ndef data(): ...\n", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    plans = []
    for name in ("b.onnx", "sub/c.onnx"):
        (tmp_path / name).write_bytes(b"any")
        text = f'{HEAD}{DISTILL}[distill.student]\nfactory = "user.py:net"\n{OTHERS.replace("b.onnx", name)}'
        (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
        plans.append(compose(load_recipe(tmp_path), load_profile("host"), until="distill"))
    nodes = {node.name: node for node in plans[0].nodes}
    assert [*nodes] == ["data", "train", "student", "teacher:b", "teach:a", "teach:b", "distill"]
    assert nodes["distill"].inputs["teachers"] == ("train", "teacher:b")
    first, second = ([configuration(node.stage) for node in plan.nodes] for plan in plans)
    assert first == second


def test_who_is_not_listened_to_is_not_asked(tmp_path: Path) -> None:
    """Promise: with the labels alone nobody's answers are kept, nor those of a teacher whose features are tapped."""
    (tmp_path / "user.py").write_text("def net(): ...\ndef data(): ...\n", encoding="utf-8")
    (tmp_path / "b.onnx").write_bytes(b"any")
    plans = []
    tapped = 'of = "b"\nstudent = "x"\nteacher = "y"'
    for losses in (_loss("labels"), _loss("soft-targets") + _loss("hint", tapped), _loss("soft-targets", 'of = "a"')):
        (tmp_path / "recipe.toml").write_text(HEAD + PRUNE + DISTILL + OTHERS + losses, encoding="utf-8")
        plans.append(compose(load_recipe(tmp_path), load_profile("host"), until="distill"))
    asked = [[node.name for node in plan.nodes if node.stage.name == "teach"] for plan in plans]
    assert asked == [[], ["teach:a"], ["teach:a"]]
