"""Building ONNX graphs and writing their weights."""
