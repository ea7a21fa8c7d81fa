"""The fused CPU kernels as one engine; `skparse._torch_engine` is the other."""

from ._embedding_kernels import embedding_epoch
from ._kernels import codes, linear_epoch, logits, logits_path, nested_epoch, probabilities

__all__ = [
    "codes",
    "embedding_epoch",
    "linear_epoch",
    "logits",
    "logits_path",
    "nested_epoch",
    "probabilities",
]
