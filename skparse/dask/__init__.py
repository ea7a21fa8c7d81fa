"""Training and predictions on a cluster with Dask; needs the extra ``dask``."""

from ._estimator import DaskSparseExpertClassifier

__all__ = ["DaskSparseExpertClassifier"]
