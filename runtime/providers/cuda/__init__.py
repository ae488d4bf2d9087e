"""ONNX Runtime on NVIDIA GPUs (CUDA)."""

#: Title of the provider; see `Provider.title`.
TITLE = "CUDA"
