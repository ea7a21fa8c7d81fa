"""The sparse expert model for users of PyTorch."""

from . import functional
from ._feed_forward import SparseExpertFeedForward
from ._network import SparseExpertNetwork

__all__ = ["SparseExpertFeedForward", "SparseExpertNetwork", "functional"]
