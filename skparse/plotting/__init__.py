"""Displays of fitted classifiers and searches, as in scikit-learn.

The numbers are attributes of the displays. Drawing needs matplotlib, the extra ``plot``.
"""

from ._expert_usage import ExpertUsageDisplay
from ._loss_curve import LossCurveDisplay
from ._sparsity_path import SparsityPathDisplay

__all__ = ["ExpertUsageDisplay", "LossCurveDisplay", "SparsityPathDisplay"]
