"""Models in the opset that what is written into them needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import onnx
import onnx_ir as ir

from calibration.modelfile import with_weights, without_weights
from calibration.prepare import prepare
from targets.errors import InputError

if TYPE_CHECKING:
    from targets.scheme import QuantScheme

_IR_VERSION: Final = 10
"""Of files of opset 21: https://onnx.ai/onnx/repo-docs/Versioning.html."""


def prepared_for(model: onnx.ModelProto, scheme: QuantScheme) -> ir.Model:
    """The canonical float graph in an opset that has the dialect's Q/DQ; names are those of `prepare` alone.

    Args:
        model: A float model.
        scheme: The dialect.

    Raises:
        InputError: As `prepare`, or the model cannot be converted to that opset.
    """
    prepared = prepare(model)
    if prepared.graph.opset_imports[""] >= scheme.opset:
        return prepared
    needs = f"{scheme.activation_dtype} activations (scheme {scheme.name!r})"
    light, weights = without_weights(ir.to_proto(prepared))
    again = ir.from_proto(raised(light, scheme.opset, needs))
    again.ir_version = max(again.ir_version, _IR_VERSION)
    with_weights(again.graph, weights)
    return prepare(ir.to_proto(again))


def raised(model: onnx.ModelProto, opset: int, needs: str) -> onnx.ModelProto:
    """The model in a newer opset.

    Args:
        model: In an older one.
        opset: The newer one.
        needs: What needs it.

    Raises:
        InputError: It cannot be converted.
    """
    old = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the model has opset {old} and cannot be converted to {opset}, needed for {needs}",
            " ".join(str(error).split())[:200],
            f"export it again with opset {opset}",
        ) from error
    return converted
