"""TensorRT and TensorRT for RTX on NVIDIA GPUs."""

#: Titles of the providers; see `Provider.title`.
TITLE, RTX_TITLE = "TensorRT", "TensorRT RTX"
