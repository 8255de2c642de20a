"""Calibration and quantisation of ONNX models. Only what learns (`rounding`, `qat`, `torch*`) imports torch."""
