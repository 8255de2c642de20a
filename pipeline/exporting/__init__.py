"""From the torch graph to ONNX."""

from pipeline.exporting.export import export_onnx
from pipeline.exporting.parity import check_parity

__all__ = ["check_parity", "export_onnx"]
