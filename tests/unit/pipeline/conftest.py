"""Stages that do almost nothing, to run plans made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, final

import pytest

from pipeline.artifacts import Measurement, OnnxModel, TorchModel, Verdict
from pipeline.events import CandidateDropped
from pipeline.stages.base import WITHDRAWN, Context, Stage
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class NoInputs:
    pass


@dataclass(frozen=True, kw_only=True)
class OneInput:
    model: TorchModel


@dataclass(frozen=True, kw_only=True)
class ManyInputs:
    models: tuple[OnnxModel, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Make(Stage[NoInputs]):
    """Writes a text; or fails or withdraws, when told to."""

    name = "make"
    version = 1
    consumes = NoInputs
    produces = TorchModel

    text: str
    calls: list[str] | None = None
    error: BaseException | None = field(default=None, metadata={"key": False})

    def run(self, src: NoInputs, out: Path, context: Context) -> Mapping[str, Any]:
        (out / "text").write_text(self.text, encoding="utf-8")
        context.progress(0.5, "half way", figure=1.0)
        if self.text == "raise" and self.error is not None:
            raise self.error
        if self.text == "withdraw":
            (out / "text").unlink()
            return {WITHDRAWN: "no gain"}
        if self.text == "bad":
            raise InputError("bad text", "it is bad", "give another")
        return {"length": len(self.text)}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Double(Stage[OneInput]):
    """Doubles the text of its input; refuses its own result when it holds a 7."""

    name = "double"
    version = 1
    consumes = OneInput
    produces = OnnxModel

    def run(self, src: OneInput, out: Path, context: Context) -> Mapping[str, Any]:
        text = (src.model.folder / "text").read_text(encoding="utf-8") * 2
        (out / "text").write_text(text, encoding="utf-8")
        return {"text": text}

    def verify(self, src: OneInput, out: Path, results: Mapping[str, Any]) -> None:
        if "7" in results["text"]:
            raise InputError("it holds a 7", "no 7 may pass", "use another digit")


@dataclass(frozen=True, kw_only=True)
class ToTell:
    models: tuple[OnnxModel, ...]
    dropped: tuple[CandidateDropped, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tell(Stage[ToTell]):
    """Tells what is there and what was dropped."""

    name = "tell"
    version = 1
    consumes = ToTell
    produces = OnnxModel

    def run(self, src: ToTell, out: Path, context: Context) -> Mapping[str, Any]:
        return {"models": [model.node for model in src.models], "dropped": [item.name for item in src.dropped]}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Choose(Stage[ManyInputs]):
    """Chooses a node by name."""

    name = "choose"
    version = 1
    consumes = ManyInputs
    produces = Verdict
    measured = True

    choice: str

    def run(self, src: ManyInputs, out: Path, context: Context) -> Mapping[str, Any]:
        return {"chosen": self.choice}


@pytest.fixture(scope="session")
def toys() -> SimpleNamespace:
    """The stages, for tests that make plans of them."""
    return SimpleNamespace(
        Make=Make, Double=Double, Choose=Choose, Tell=Tell, Measurement=Measurement, OneInput=OneInput
    )
