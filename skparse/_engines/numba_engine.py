"""The compiled CPU kernels as one engine; `skparse._engines.torch_engine` is the other."""

from .kernels.dense import dense_epoch
from .kernels.embedding import embedding_epoch
from .kernels.linear import linear_epoch
from .kernels.nested import nested_epoch
from .kernels.prediction import find_empty, logits, logits_path, probabilities
from .kernels.routing import route
from .kernels.stream import stream_epoch

__all__ = [
    "dense_epoch",
    "embedding_epoch",
    "find_empty",
    "linear_epoch",
    "logits",
    "logits_path",
    "nested_epoch",
    "probabilities",
    "route",
    "stream_epoch",
]
