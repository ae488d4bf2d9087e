"""ONNX Runtime on the CPU (MLAS)."""
