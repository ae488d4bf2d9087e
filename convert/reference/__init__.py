"""Reference models: HuggingFace in float32."""
