"""A recipe names metrics: the task's own, or the user's functions; faults all at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from pipeline.recipe import Recipe
from pipeline.stages.base import configuration
from pipeline.tasks import TASKS, Task, find_task, make_task
from targets.errors import Fault, InputError

OWN = """
import numpy as np

def near(outputs, labels):
    return float(np.mean(np.abs(outputs[0].argmax(1) - labels) <= 1))

def broken(outputs, labels):
    return float("nan")
"""


def made(name: str, main: str = "", beside: list[str] | None = None, folder: Path = Path()) -> Task:
    found = make_task(name, main, beside, folder)
    assert isinstance(found, Task), found
    return found


def test_every_task_of_the_recipe_is_there() -> None:
    """Promise: every task a recipe may name is there under its name, with a main metric of its own."""
    names = Recipe.model_json_schema()["properties"]["task"]["enum"]
    assert set(TASKS) == set(names)
    for name, task in TASKS.items():
        assert task.name == name
        assert all(task.knows(metric) for metric in (task().metric, *task().beside))
        assert task().metric not in task.lower_is_better


def test_classification_metrics_are_sklearns() -> None:
    """Promise: precision, recall, F1 and AUC are the macro means that scikit-learn gives; top-k is the share."""
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((60, 4)).astype(np.float32), rng.integers(0, 4, 60)
    found = made("classification", "f1", ["precision", "recall", "auc", "top2"]).scores([logits], labels, [])
    said, grown = logits.argmax(1), np.exp(logits.astype(np.float64))
    chance = grown / grown.sum(1, keepdims=True)
    assert found["accuracy"] == pytest.approx(f1_score(labels, said, average="macro"), abs=1e-6)
    assert found["beside"] == pytest.approx(
        {
            "precision": precision_score(labels, said, average="macro", zero_division=0),
            "recall": recall_score(labels, said, average="macro"),
            "auc": roc_auc_score(labels, chance, multi_class="ovr"),
            "top2": np.mean([label in row.argsort()[-2:] for row, label in zip(logits, labels, strict=True)]),
        },
        abs=1e-6,
    )


def test_auc_of_classes_that_do_not_occur() -> None:
    """Promise: a class without samples has no curve, and takes no part in the mean."""
    logits = np.array([[2, 0, 0], [0, 2, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    assert made("classification", "auc").score([logits], np.array([0, 1, 0, 1]), []) == 1.0


def test_a_function_of_the_users_may_decide(tmp_path: Path) -> None:
    """Promise: it is called with outputs and labels, named by its function, and part of the key by its source."""
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    task = made("classification", "own.py:near", ["accuracy"], tmp_path)
    logits, labels = np.eye(4, dtype=np.float32), np.array([0, 0, 0, 3])
    assert task.scores([logits], labels, []) == {"accuracy": 0.75, "metric": "near", "beside": {"accuracy": 0.5}}
    assert task.best == float("inf")
    before = configuration(task)
    (tmp_path / "own.py").write_text(OWN.replace("<= 1", "<= 2"), encoding="utf-8")
    assert configuration(made("classification", "own.py:near", ["accuracy"], tmp_path)) != before


def test_a_function_that_gives_no_number_is_named(tmp_path: Path) -> None:
    """Promise: NaN decides nothing."""
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    with pytest.raises(InputError, match=r"own\.py:broken"):
        made("classification", "own.py:broken", [], tmp_path).score([np.eye(2)], np.arange(2), [])


def test_what_is_only_beside_does_not_count_for_training() -> None:
    """Promise: another metric beside the main one trains nothing again."""
    one, other = made("classification", "f1", ["auc"]), made("classification", "f1", [])
    assert configuration(one) != configuration(other)
    assert configuration(one.alone) == configuration(other.alone)


@pytest.mark.parametrize(
    ("task", "main", "beside", "words"),
    [
        ("classification", "acuracy", None, "accuracy"),
        ("classification", "top0", None, "no metric"),
        ("regression", "rmse", None, "must rise"),
        ("detection", "map", ["miou"], "no metric 'miou'"),
        ("recommendation", "ndcg", None, "ndcg@<k>"),
        ("fidelity", "gone.py:f", None, "cannot read"),
    ],
)
def test_metrics_that_do_not_exist_are_faults(task: str, main: str, beside: list[str] | None, words: str) -> None:
    """Promise: each with its place in the recipe, and what there is instead."""
    found = make_task(task, main, beside)
    assert isinstance(found, list)
    assert all(isinstance(fault, Fault) and fault.where.startswith("metrics.") for fault in found)
    assert words in f"{found[0].what} {found[0].fix}"


def test_smoothing_is_refused_where_there_are_no_classes() -> None:
    """Promise: what would be ignored is a fault."""
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "task": "regression",
            "model": {"factory": "m.py:f"},
            "data": {"npz": "d.npz"},
            "train": {"epochs": 1, "label_smoothing": 0.1},
        }
    )
    found = find_task(recipe)
    assert isinstance(found, list)
    assert found[0].where == "train.label_smoothing"
