"""The sparse expert layer for people who build PyTorch models."""

from ._network import SparseExpertNetwork

__all__ = ["SparseExpertNetwork"]
