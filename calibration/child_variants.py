"""What runs in a limited child process: int8 models that differ in one layer, for measuring what float costs there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from calibration.child import strings, write_json
from calibration.qdq import quantize_model
from calibration.table import CalibrationTable
from targets.onnxfile import io_of, open_onnx
from targets.scheme import scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

WHOLE = "whole"


def variants_in_child(request: Mapping[str, object]) -> dict[str, object]:
    """Writes the int8 model as it is, and one more for each of some layers, with that layer in float.

    Only a range method is used: what algorithms change are numbers, not how long the engine takes.

    Args:
        request: ``model`` (the float model), ``table``, ``scheme``, ``method``, ``out_folder`` (exists), ``layers``
            (nodes to leave float, one at a time), and if wished ``float_nodes``, which are float in all of them.

    Returns:
        ``{files}``: name in the folder by layer; ``whole`` has them all in int8.

    Raises:
        InputError: As `quantize_model`.
    """
    model, out = Path(str(request["model"])), Path(str(request["out_folder"]))
    table, dialect = CalibrationTable.load(Path(str(request["table"]))), scheme(str(request["scheme"]))
    always, layers = strings(request, "float_nodes"), strings(request, "layers")
    files = {WHOLE: "whole.onnx"} | {layer: f"layer-{number}.onnx" for number, layer in enumerate(layers)}
    for layer, name in files.items():
        left = {*always} if layer == WHOLE else {*always, layer}
        quantize_model(model, table, dialect, str(request["method"]), out / name, float_nodes=left)
    write_json(out / "io.json", io_of(open_onnx(out / files[WHOLE])))
    return {"files": files}
