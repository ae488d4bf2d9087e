"""ONNX Runtime on NVIDIA GPUs (CUDA)."""
