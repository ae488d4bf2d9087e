"""CoreML through ONNX Runtime, on Apple machines."""
