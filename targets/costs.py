"""What a layer takes in float and in int8 on an engine: enough to tell where int8 cannot pay, not to promise a time."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


Kind = Literal["dense", "thin", "single", "depthwise"]
"""Of a layer: ``thin`` reads fewer than 8 channels, ``single`` one, ``depthwise`` has a filter for each channel."""

THIN_CHANNELS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCosts:
    """Speeds of one thread.

    Attributes:
        float_gmacs: 10^9 multiply-accumulates a second in float32, by kind of layer.
        int8_gmacs: The same in int8.
        float_layer_us: What a float layer takes beside its arithmetic.
        int8_layer_us: What an int8 layer takes beside its arithmetic.
        conversion_us: What a Quantize or Dequantize takes beside its values.
        conversion_ns: What it takes for each value.
        image_conversion_ns: The same for an image ``(N, C, H, W)``, whose layout in memory changes with it.
        layout_us: What joining two images (a sum, a product) takes more where one of them comes from float: it keeps
            the layout of float then, so the other is turned around, and the result again for the next layer.
    """

    float_gmacs: Mapping[Kind, float]
    int8_gmacs: Mapping[Kind, float]
    float_layer_us: float
    int8_layer_us: float
    conversion_us: float
    conversion_ns: float
    image_conversion_ns: float
    layout_us: float

    def layer_us(self, macs: float, kind: Kind, *, int8: bool) -> float:
        """Microseconds of a layer with that many multiply-accumulates."""
        if int8:
            return self.int8_layer_us + macs / self.int8_gmacs[kind] / 1e3
        return self.float_layer_us + macs / self.float_gmacs[kind] / 1e3

    def convert_us(self, values: int, *, image: bool) -> float:
        """Microseconds of a Quantize or Dequantize of that many values."""
        return self.conversion_us + values * (self.image_conversion_ns if image else self.conversion_ns) / 1e3


# Measured with ONNX Runtime 1.32 on an Ice Lake server core, one thread (benchmarks/quantization/layer_costs.py):
# convolutions and matrix products of 16 to 256 channels, fitted to within a third for those of 64 and more. Only ratios
# matter here, and they are alike on the cores of this class.
_VNNI: Final = LayerCosts(
    float_gmacs=MappingProxyType({"dense": 48.0, "thin": 12.0, "single": 12.0, "depthwise": 12.0}),
    int8_gmacs=MappingProxyType({"dense": 125.0, "thin": 5.5, "single": 5.5, "depthwise": 5.0}),
    float_layer_us=1.0,
    int8_layer_us=3.5,
    conversion_us=1.1,
    conversion_ns=0.2,
    image_conversion_ns=0.8,
    layout_us=2.9,  # Sapphire Rapids, 1 December 2026: ResNet-20 behind a float first layer, 26 us for 9 sums
)

# The same on a Zen 3 server core (AVX2, no VNNI), weights of 7 bits, 1 December 2026; depthwise, thin and image figures
# fitted to the profiles of whole nets (ResNet-20, a depthwise net, spoken digits, a text classifier), whose measured
# gain from layers in float they foretell to 2 us.
_AVX2: Final = LayerCosts(
    float_gmacs=MappingProxyType({"dense": 45.0, "thin": 22.0, "single": 17.0, "depthwise": 16.0}),
    int8_gmacs=MappingProxyType({"dense": 82.0, "thin": 11.0, "single": 5.5, "depthwise": 15.0}),
    float_layer_us=2.0,
    int8_layer_us=3.0,
    conversion_us=0.9,
    conversion_ns=0.2,
    image_conversion_ns=0.55,
    layout_us=3.1,
)

COSTS: Final[Mapping[str, LayerCosts]] = MappingProxyType({"ort-x86": _VNNI, "ort-x86-avx2": _AVX2})
"""By dialect; one that was never measured has none."""
