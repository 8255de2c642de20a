"""Calibration and quantisation of ONNX models. Imports no torch."""
