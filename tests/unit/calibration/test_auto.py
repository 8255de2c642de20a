"""Promises of the automatic choice: it adds only what pays, stops when told, and writes down every step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from calibration import auto
from calibration.auto import AutoSettings, choose, snr_by_method
from calibration.candidates import Candidate, Choice, Workshop
from calibration.collect import collect
from calibration.fidelity import Fidelity, Judge
from calibration.modelfile import model_sha256
from calibration.samples import CalibrationSet
from calibration.table import CalibrationTable
from targets.errors import InputError
from targets.scheme import scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

STEPS = ("ranges", "bias", "rounding")
TABLE = CalibrationTable(
    tensors={"t": {"mse": (0.0, 1.0), "minmax": (0.0, 2.0)}}, samples=1, model_sha256="", data_sha256="", versions={}
)


@dataclass
class Fake:
    """A workshop and its judge: what a choice is worth is the sum of what its parts are worth."""

    worth: Mapping[str, float]
    agreeing: Mapping[str, int]
    table: CalibrationTable = TABLE
    refuses: str = ""
    without_effect: str = ""

    def idle(self, choice: Choice, algorithm: str) -> str:
        del choice
        return "nothing to gain" if algorithm == self.without_effect else ""

    def make(self, choice: Choice, *, time_budget_s: float | None = None) -> Candidate:
        del time_budget_s
        if self.refuses in choice.algorithms:
            raise InputError("cannot learn this", "no implementation of 'Foo'", "leave it")
        name = "+".join([choice.method, *sorted(choice.algorithms)])
        return Candidate(path=Path(name), choice=choice, layers=(), float_model=Path("f"), table=self.table)

    def __call__(self, path: Path) -> Fidelity:
        parts = path.name.split("+")
        same = np.arange(100) < 100 - sum(100 - self.agreeing.get(part, 100) for part in parts)
        snr = sum(self.worth.get(part, 0.0) for part in parts)
        return Fidelity(snr_db=snr, agreement=float(same.mean()), accuracy=None, same=same)


def run(fake: Fake, settings: AutoSettings) -> auto.AutoResult:
    workshop: Any = fake
    return choose(workshop, workshop, settings)


@pytest.fixture(autouse=True)
def _steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "STEPS", STEPS)


WORTH = {"mse": 28.0, "minmax": 27.0, "ranges": 0.1, "bias": 0.2, "rounding": 2.0}


def test_what_does_not_pay_is_left_out() -> None:
    """0.1 dB is too little, 0.2 dB is enough; every step is written down with its verdict."""
    found = run(Fake(WORTH, {}), AutoSettings())
    assert found.candidate.choice == Choice(method="mse", algorithms=frozenset({"bias", "rounding"}))
    assert found.fidelity.snr_db == pytest.approx(30.2)
    assert found.stopped == "all tried"
    steps = [(one.step, one.kept) for one in found.tried]
    assert steps == [("minmax", False), ("mse", True), ("ranges", False), ("bias", True), ("rounding", True)]
    assert found.tried[2].reason == "it adds 0.10 dB, less than 0.2"
    assert snr_by_method(found.tried) == {"minmax": 27.0, "mse": 28.0}


def test_little_and_little_may_be_enough() -> None:
    """Two algorithms that are each too weak to stay are tried together; what turned answers is not among them."""
    worth = WORTH | {"bias": 0.15}
    found = run(Fake(worth, {"rounding": 90}), AutoSettings())
    assert found.candidate.choice.algorithms == {"ranges", "bias"}
    assert [(one.step, one.kept) for one in found.tried[2:]] == [
        ("ranges", False),
        ("bias", False),
        ("rounding", False),
        ("ranges+bias", True),
    ]


def test_good_enough_is_enough() -> None:
    """At the target SNR nothing more is tried, be it at once or after a step."""
    assert [one.step for one in run(Fake(WORTH, {}), AutoSettings(target_snr_db=28.0)).tried] == ["minmax", "mse"]
    found = run(Fake(WORTH, {}), AutoSettings(target_snr_db=28.2))
    assert ([one.step for one in found.tried][-1], found.stopped) == ("bias", "target SNR reached")


def test_agreement_goes_before_noise() -> None:
    """An algorithm that raises the SNR and turns answers is not kept."""
    found = run(Fake(WORTH, {"rounding": 90}), AutoSettings())
    assert "rounding" not in found.candidate.choice.algorithms
    assert found.tried[-1].reason == "it costs agreement with the float model"


def test_no_algorithm_starts_after_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The methods are compared in any case; then time is looked at."""
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(auto.time, "monotonic", lambda: float(next(clock)))
    found = run(Fake(WORTH, {}), AutoSettings(time_budget_s=50.0))
    assert ([one.step for one in found.tried], found.stopped) == (["minmax", "mse"], "time budget spent")


def test_a_model_that_an_algorithm_does_not_take_goes_on() -> None:
    """Left to auto, the reason is written down; asked for, it is an error. What would do nothing is not made."""
    found = run(Fake(WORTH, {}, refuses="bias", without_effect="ranges"), AutoSettings())
    assert found.candidate.choice.algorithms == {"rounding"}
    assert [(one.step, one.snr_db, one.reason) for one in found.tried[2:4]] == [
        ("ranges", None, "nothing to gain"),
        ("bias", None, "cannot learn this: no implementation of 'Foo'"),
    ]
    with pytest.raises(InputError, match="cannot learn this"):
        run(Fake(WORTH, {}, refuses="bias"), AutoSettings(algorithms=("bias",)))


def test_what_is_asked_for_is_done() -> None:
    """A list of algorithms is used in the order in which they work, whether they pay or not."""
    settings = AutoSettings(method="minmax", algorithms=("rounding", "ranges"), target_snr_db=1.0)
    found = run(Fake(WORTH | {"ranges": -5.0}, {}), settings)
    assert found.candidate.choice == Choice(method="minmax", algorithms=frozenset({"ranges", "rounding"}))
    assert ([one.step for one in found.tried], found.stopped) == (["minmax", "ranges", "rounding"], "as asked")


def test_what_is_asked_for_and_has_nothing_to_do_is_told() -> None:
    """It is no part of the choice, and the record gives the reason."""
    settings = AutoSettings(method="minmax", algorithms=("rounding", "ranges"))
    found = run(Fake(WORTH, {}, without_effect="ranges"), settings)
    assert found.candidate.choice.algorithms == {"rounding"}
    assert [(one.step, one.kept, one.reason) for one in found.tried] == [
        ("minmax", True, ""),
        ("ranges", False, "nothing to gain"),
        ("rounding", True, ""),
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "minimax"}, "no method of quantisation is called 'minimax'"),
        ({"algorithms": ("biass",)}, "no algorithm of quantisation is called 'biass'"),
        ({"algorithms": "all"}, "no set of algorithms of quantisation is called 'all'"),
        ({"algorithms": ("bias", "bias")}, "names one twice"),
        ({"time_budget_s": 0.0}, "time_budget_s=0.0"),
        ({"target_snr_db": float("nan")}, "target_snr_db=nan"),
        ({"gain_db": -1.0}, "gain_db=-1.0"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    """Before anything runs."""
    with pytest.raises(InputError, match=message):
        AutoSettings(**wrong)


@pytest.fixture
def workshop(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> tuple[Workshop, Judge]:
    seen, held = CalibrationSet({"x": images}, batch_size=16).split(5)
    (tmp_path / "made").mkdir()
    table = collect(residual, seen, threads=1)
    made = Workshop(residual, table, seen, scheme=scheme("ort-x86"), folder=tmp_path / "made", threads=1)
    return made, Judge(residual, held, threads=1)


def test_candidates_of_a_real_net_are_made_once(workshop: tuple[Workshop, Judge]) -> None:
    """The same choice is the same file; an algorithm changes the file and builds on the one without it."""
    made, judge = workshop
    plain, again = made.make(Choice(method="minmax")), made.make(Choice(method="minmax"))
    assert plain.path == again.path
    both = made.make(Choice(method="minmax", algorithms=frozenset({"bias", "ranges"})))
    assert len({one.path.read_bytes() for one in (plain, both)}) == 2
    assert judge(both.path).snr_db > 25.0
    count = len([*plain.path.parent.iterdir()])
    assert made.make(Choice(method="minmax", algorithms=frozenset({"ranges"}))).path != both.path
    assert len([*plain.path.parent.iterdir()]) == count  # made on the way to `both`


def test_a_changed_float_model_is_observed_anew(workshop: tuple[Workshop, Judge]) -> None:
    """Equalisation changes the float model: the candidate has that model's ranges. Without effect it says so."""
    made, judge = workshop
    assert made.idle(Choice(method="minmax"), "bias") == ""
    assert "no normalisation" in made.idle(Choice(method="minmax"), "smooth")
    found = made.make(Choice(method="minmax", algorithms=frozenset({"equalize", "smooth", "bias"})))
    assert found.float_model != made.model
    found.table.check_model(model_sha256(found.float_model))
    assert judge(found.path).snr_db > 25.0


def test_nodes_stay_float_in_every_candidate(workshop: tuple[Workshop, Judge]) -> None:
    """A node that is left out is float in the layers, and unknown nodes and algorithms are errors."""
    made, judge = workshop
    result = choose(made, judge, AutoSettings(method="mse", algorithms=("ranges",)), float_nodes=["conv1"])
    assert {layer.node: layer.precision for layer in result.candidate.layers}["conv1"] == "float"
    with pytest.raises(InputError, match="no node is called 'conv9'"):
        made.make(Choice(method="mse", float_nodes=frozenset({"conv9"})))
    with pytest.raises(InputError, match="no algorithm is called 'magic'"):
        made.make(Choice(method="mse", algorithms=frozenset({"magic"})))
