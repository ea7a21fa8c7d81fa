"""Why a model predicts what it predicts, in the manner of `sklearn.inspection`.

The router is additive: the score of an expert is a sum over features, plus a bias. So what a
feature contributes is exact, and needs neither samples nor approximations.
"""

from ._contributions import feature_contributions
from ._expert_map_display import ExpertMapDisplay
from ._explanation import Explanation, FeatureContribution, KeptExpert, explain
from ._explanation_display import ExplanationDisplay
from ._features import TopFeatures, feature_importances, top_features

__all__ = [
    "ExpertMapDisplay",
    "Explanation",
    "ExplanationDisplay",
    "FeatureContribution",
    "KeptExpert",
    "TopFeatures",
    "explain",
    "feature_contributions",
    "feature_importances",
    "top_features",
]
