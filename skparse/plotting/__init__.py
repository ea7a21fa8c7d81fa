"""Pictures of fitted classifiers and searches, in the manner of scikit-learn's displays.

The numbers are attributes of the displays; matplotlib, the extra ``plot``, draws them.
"""

from ._expert_usage import ExpertUsageDisplay
from ._loss_curve import LossCurveDisplay
from ._sparsity_path import SparsityPathDisplay

__all__ = ["ExpertUsageDisplay", "LossCurveDisplay", "SparsityPathDisplay"]
