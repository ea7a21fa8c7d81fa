"""Sparse expert networks for text classification, as a scikit-learn estimator."""

from ._classifier import SparseExpertClassifier

__all__ = ["SparseExpertClassifier", "__version__"]

__version__ = "0.1.0.dev0"
