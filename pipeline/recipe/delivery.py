"""`[export]`, `[build]`, `[budget]`, `[benchmark]`: from a float model to what ships."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from pipeline.recipe.base import PositiveFloat, Section, Share
from targets.profile import DeviceName

_TIMES_LAYERS_S: Final = 20.0


class BuildSection(Section):
    """Which engines are built and compared."""

    candidates: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            description="just these, which then must not fail, and the float reference; by default all that the target "
            "offers, without those that cannot be built",
        ),
    ] = None


class ExportSection(Section):
    """PyTorch to ONNX."""

    opset: Annotated[int, Field(ge=18, le=23)] = 20
    tolerance: Annotated[
        PositiveFloat, Field(description="largest difference to torch, relative to the output's range")
    ] = 1e-4


class BudgetSection(Section):
    """Floor and ceilings. What does not meet them does not ship."""

    accuracy_drop: Annotated[float, Field(ge=0, le=1, description="largest loss against the dense fp32 model")] = 0.01
    latency_ms: PositiveFloat | None = None
    latency_ratio: Annotated[
        Share | None,
        Field(description="share of the dense fp32 engine's latency, in one campaign: 0.25 is four times as fast"),
    ] = None
    latency_p95_ms: Annotated[
        PositiveFloat | None, Field(description="of single inferences: held against the 99 % upper bound of the p95")
    ] = None
    memory_mb: PositiveFloat | None = None
    size_mb: PositiveFloat | None = None
    energy_mj: Annotated[
        PositiveFloat | None, Field(description="millijoules of one inference, where the device has a sensor")
    ] = None


class BenchmarkSection(Section):
    """One interleaved campaign over all candidates, on the target or on a device that can stand in for it."""

    device: Annotated[
        DeviceName | None, Field(description="a registered device, or `local`; the profile's own when not given")
    ] = None
    mode: Annotated[
        Literal["quick", "default", "rigorous"],
        Field(description="quick: screening, without verdicts; rigorous: more and longer blocks"),
    ] = "default"
    budget_s: Annotated[PositiveFloat, Field(description="wall-clock seconds for the whole campaign")] = 60.0
    accuracy_on_device: Annotated[
        bool | None,
        Field(description="score the validation split on the device; by default where that is not this machine"),
    ] = None
    layers: Annotated[
        bool | None,
        Field(
            description="time each layer of what ships, once, after the campaign (some seconds); by default where that "
            "is not quick and has 20 s"
        ),
    ] = None
    measure: Annotated[bool, Field(description="false: choose by accuracy and size, and say so everywhere")] = True

    @property
    def times_layers(self) -> bool:
        """Whether the layers of what ships are timed."""
        if self.layers is None:
            return self.measure and self.mode != "quick" and self.budget_s >= _TIMES_LAYERS_S
        return self.measure and self.layers
