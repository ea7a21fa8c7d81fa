"""The sparse expert model for users of PyTorch: layers and a module of the classifier."""

from . import functional
from ._feed_forward import SparseExpertFeedForward
from ._network import SparseExpertNetwork
from ._top_k import NestedTopK, set_top_k
from ._transformer import replace_feed_forward
from ._usage import expert_usage

__all__ = [
    "NestedTopK",
    "SparseExpertFeedForward",
    "SparseExpertNetwork",
    "expert_usage",
    "functional",
    "replace_feed_forward",
    "set_top_k",
]
