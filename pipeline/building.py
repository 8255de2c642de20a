"""The part of a plan from float models to engines: ranges, int8 by dialect, other formats, a build a candidate."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from pipeline.candidates import DENSE, Offer, built_with, content
from pipeline.plan import Node
from pipeline.stages.build import BuildStage
from pipeline.stages.calibrate import CalibrateStage
from pipeline.stages.convert import ConvertStage
from pipeline.stages.halve import HalveStage
from pipeline.stages.quantize import QuantizeStage
from pipeline.tasks import Task
from targets.scheme import scheme

if TYPE_CHECKING:
    from pipeline.data.source import DataSource
    from pipeline.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """Nodes, and which of them make what.

    Attributes:
        nodes: In order.
        models: For each candidate's name, in order of challenge, the node whose model it is built from.
    """

    nodes: tuple[Node, ...]
    models: Mapping[str, str]

    @property
    def builds(self) -> tuple[str, ...]:
        """Names of the nodes that build, the uncompressed reference first."""
        return tuple(f"build:{name}" for name in self.models)


def building(
    recipe: Recipe,
    data: DataSource,
    task: Task,
    offers: Sequence[Offer],
    *,
    model: str,
    reference: str,
    device: str,
) -> Building:
    """Nodes that make a model for each offer and build it; models of equal content are made once.

    Args:
        recipe: How to calibrate, quantise and convert.
        data: Samples for that, and to score what was built.
        task: What the model is for.
        offers: The candidates, in order of challenge.
        model: The node that makes the float model to build.
        reference: The node that makes the uncompressed one, which all are judged against.
        device: Name of the device that the recipe measures on.
    """
    int8 = [offer for offer in offers if offer.precision == "int8"]
    maker = _Maker(
        recipe=recipe,
        data=data,
        task=task,
        model=model,
        reference=reference,
        device=device,
        int8_optional=not any(offer.mandatory for offer in int8),
    )
    models = {offer.name: maker.model_for(offer, offers) for offer in offers}
    builds = [maker.build(offer, models[offer.name]) for offer in offers]
    return Building(nodes=(*maker.nodes, *builds), models=models)


@final
@dataclass(slots=True, kw_only=True)
class _Maker:
    recipe: Recipe
    data: DataSource
    task: Task
    model: str
    reference: str
    device: str
    int8_optional: bool  # no recipe names one: what only they need is no more mandatory than they are
    nodes: list[Node] = field(default_factory=list)
    made: dict[Hashable, str] = field(default_factory=dict)

    def model_for(self, offer: Offer, offers: Sequence[Offer]) -> str:
        """The node whose model the offer is built from, made where it is not there yet."""
        if offer.precision == "fp32":
            return self.reference if offer.name == DENSE else self.model
        key = _content(offer)
        if key not in self.made:
            sharing = [other for other in offers if other.precision == offer.precision and _content(other) == key]
            optional = not any(other.mandatory for other in sharing)
            asked = any(other.asked for other in sharing)
            node = (
                self._quantize(offer, optional=optional)
                if offer.precision == "int8"
                else self._convert(offer, optional=optional, asked=asked)
            )
            self.nodes.append(node)
            self.made[key] = node.name
        if offer.precision == "int8" and offer.profile.quantization.float_type == "fp16":
            return self._halved(self.made[key], offers)
        return self.made[key]

    def _halved(self, model: str, offers: Sequence[Offer]) -> str:
        """The node that brings what is float in the int8 model ``model`` to 16 bits."""
        name = model.replace("quantize", "halve", 1)
        if name not in [node.name for node in self.nodes]:
            stage = HalveStage(source=self.data, samples=self.recipe.quantize.samples, threads=self.recipe.threads)
            halved = [o for o in offers if o.precision == "int8" and o.profile.quantization.float_type == "fp16"]
            self.nodes.append(
                Node(
                    name=name,
                    title="bring what is float beside int8 to fp16",
                    stage=stage,
                    inputs={"data": "data", "model": model},
                    optional=not any(offer.mandatory for offer in halved),
                )
            )
        return name

    def build(self, offer: Offer, model: str) -> Node:
        stage = BuildStage(
            precision=offer.precision,
            profile=offer.profile,
            source=self.data,
            task=self.task,
            built_with=built_with(offer.profile.engine),
        )
        return Node(
            name=f"build:{offer.name}",
            title=f"build the {offer.name} engine",
            stage=stage,
            inputs={"data": "data", "model": model, "reference": self.reference},
            optional=not offer.mandatory,
        )

    def _quantize(self, offer: Offer, *, optional: bool) -> Node:
        """Ranges are measured apart from what is made of them, so that another method or scheme reuses them."""
        if "calibrate" not in [node.name for node in self.nodes]:
            self.nodes.append(self._calibrate(optional=self.int8_optional))
        dialect = offer.profile.quantization.scheme
        first = "quantize" not in self.made.values()
        stage = QuantizeStage(
            source=self.data,
            task=self.task.alone,
            quantize=self.recipe.quantize.model_copy(update={"formats": "auto"}),  # no matter here
            accuracy_drop=self.recipe.budget.accuracy_drop,
            profile=offer.profile,
            seed=self.recipe.seed,
            threads=self.recipe.threads,
            built_with=built_with(offer.profile.engine),
            measure=self.recipe.benchmark.measure and self.recipe.quantize.mixed_precision == "auto",
            device=self.device,
        )
        return Node(
            name="quantize" if first else f"quantize:{dialect}",
            title="quantise to int8" if first else f"quantise to int8 in the dialect {dialect}",
            stage=stage,
            inputs={
                "data": "data",
                "model": self.model,
                "reference": self.reference,
                "calibration": "calibrate",
            },
            optional=optional,
        )

    def _calibrate(self, *, optional: bool) -> Node:
        wanted = self.recipe.quantize
        stage = CalibrateStage(
            source=self.data,
            task=self.task.alone,
            samples=wanted.samples,
            min_samples=wanted.min_samples,
            observe=wanted.observe,
            memory_mb=wanted.memory_mb,
            threads=self.recipe.threads,
        )
        inputs = {"data": "data", "model": self.model}
        title = "measure the ranges of activations"
        return Node(name="calibrate", title=title, stage=stage, inputs=inputs, optional=optional)

    def _convert(self, offer: Offer, *, optional: bool, asked: bool) -> Node:
        stage = ConvertStage(
            source=self.data,
            precision=offer.precision,
            weight_bits=_weight_bits(offer),
            samples=self.recipe.quantize.samples,
            threads=self.recipe.threads,
            asked=asked,
        )
        bits = f"-{stage.weight_bits}" if f"convert:{offer.precision}" in self.made.values() else ""
        return Node(
            name=f"convert:{offer.precision}{bits}",
            title=f"convert to {offer.precision}",
            stage=stage,
            inputs={"data": "data", "model": self.model},
            optional=optional,
        )


def _content(offer: Offer) -> Hashable:
    """What the model of an offer depends on beside the float model."""
    if offer.precision == "int8":
        return content(offer.profile.quantization.scheme)
    return offer.precision, _weight_bits(offer)


def _weight_bits(offer: Offer) -> int:
    """Of dynamic int8; other formats are the same everywhere."""
    return scheme(offer.profile.quantization.scheme).weight_bits if offer.precision == "int8-dynamic" else 8
