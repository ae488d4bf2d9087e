"""Fletcher: text-embedding checkpoints to verified ONNX artifacts, and servers for them.

>>> from fletcher import Encoder
>>> encoder = Encoder.load("all-MiniLM-L6-v2.fletcher")
>>> encoder.embed(["a text", "another"], input_type="query").vectors.shape
(2, 384)
"""

from fletcher.runtime import Embeddings, Encoder

__all__ = ["Embeddings", "Encoder", "__version__"]

__version__ = "0.1.0"
