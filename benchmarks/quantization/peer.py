"""Runs in a peer's environment: quantises one model with one of its methods; needs nothing of this project.

    peer.py METHOD MODEL CALIBRATION.npz OUT [SCHEME]

For SCHEME ``ort-x86-avx2`` ONNX Runtime's quantiser reduces the range of weights to 7 bits, as its documentation says
for CPUs without VNNI.

METHOD: ort-minmax, ort-percentile, ort-entropy, nncf, nncf-fbc, modelopt-max, modelopt-entropy.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np

BATCH = 32


def main() -> None:
    """Writes OUT."""
    sys.modules["openvino_telemetry"] = None  # NNCF would send events with it and write to the home
    method, model, samples, out = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4]
    with np.load(samples, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    family, _, kind = method.partition("-")
    {"ort": ort, "nncf": nncf, "modelopt": modelopt}[family](kind, model, arrays, out)


def batches(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Feeds of `BATCH` samples."""
    count = len(next(iter(arrays.values())))
    return [{name: a[i : i + BATCH] for name, a in arrays.items()} for i in range(0, count, BATCH)]


def ort(kind: str, model: str, arrays: dict[str, np.ndarray], out: str) -> None:
    """quantize_static as its documentation recommends for x86 with VNNI."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(batches(arrays))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(model, str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            out,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[kind],
            reduce_range=sys.argv[5:] == ["ort-x86-avx2"],
        )


def nncf(kind: str, model: str, arrays: dict[str, np.ndarray], out: str) -> None:
    """Post-training quantisation; `fbc` with its slower, accurate bias correction."""
    import nncf as peer
    import onnx

    data = peer.Dataset(batches(arrays))
    quantised = peer.quantize(
        onnx.load(model),
        data,
        preset=peer.QuantizationPreset.MIXED,
        subset_size=len(batches(arrays)),
        fast_bias_correction=kind != "fbc",
        model_type=peer.ModelType.TRANSFORMER if "text" in Path(model).parent.name else None,
    )
    onnx.save(quantised, out)


def modelopt(kind: str, model: str, arrays: dict[str, np.ndarray], out: str) -> None:
    """Its int8 for ONNX, calibrated on the CPU."""
    from modelopt.onnx.quantization import quantize

    quantize(
        model,
        quantize_mode="int8",
        calibration_data=arrays,
        calibration_method=kind,
        calibration_eps=["cpu"],
        output_path=out,
        high_precision_dtype="fp32",
    )


if __name__ == "__main__":
    main()
