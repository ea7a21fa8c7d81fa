"""The sparse expert model for users of PyTorch."""

from ._network import SparseExpertNetwork

__all__ = ["SparseExpertNetwork"]
