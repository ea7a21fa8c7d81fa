"""From linear margins to the scores, outputs and b2 of a model, and calibration."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from .._csr import with_values
from .._model import SparseExpertModel


class ScoreScaling(NamedTuple):
    """How linear margins become a model: router scores, expert outputs and b2."""

    scale: float  # router score of one unit of margin
    shift: float  # a score passes the ReLU where its margin is above -shift
    gain: float  # output of an expert for its own classes
    threshold: float  # gate weight at which a logit is zero
    score_factor: float  # on the router, after training
    output_factor: float  # on the outputs and b2, after training
    intercept_factor: float = 1.0  # on b2 once more

    @property
    def factors(self):
        """What a model is multiplied by after training, see `multiply_scores`."""
        return self.score_factor, self.output_factor, self.intercept_factor

    def calibrated(self, of_scores, of_outputs):
        """Multiply the factors by others.

        The smaller the scores, the closer are the gate weights, and with them the logits of the
        classes. b2 shrinks with these, or it would decide alone.
        """
        return self._replace(
            score_factor=float(self.score_factor * of_scores),
            output_factor=float(self.output_factor * of_outputs),
            intercept_factor=float(self.intercept_factor * min(1.0, of_scores)),
        )


def default_scaling(n_classes, multilabel):
    """Constants of the `ScoreScaling`, chosen by held-out accuracy and log-loss.

    Training needs flat scores and small gains, which keep a gradient on every sample.
    Calibrated probabilities need larger ones, so both are multiplied after training. The labels
    of a multilabel sample share the gate, so its scores are flatter still.
    """
    if multilabel:
        return ScoreScaling(1.0, 0.5, 6.0, 0.15, 1.0, 5.0)
    gain = 2.0 + np.log(max(n_classes, 2))
    return ScoreScaling(3.0, 1.5, gain, 0.0, 5 / 3, (gain + 2.0) / gain)


def model_from_margins(draft, margins, bias):
    """Turn linear margins into a model whose scores pass the ReLU.

    Parameters
    ----------
    draft : Draft
    margins : csr_array (n_features, n_experts)
        With ``draft.data.binary`` of one column, see `to_single_margin`.
    bias : ndarray (n_experts,), multiplies the bias feature

    Returns
    -------
    SparseExpertModel
    """
    if draft.data.binary:
        # Undo `to_single_margin`, with one weight per feature, of the expert it is positive for.
        experts = (margins.data > 0).astype(margins.indices.dtype)
        parts = 2 * np.abs(margins.data), experts, margins.indptr
        margins = sparse.csr_array(parts, shape=(margins.shape[0], 2))
        bias = np.concatenate([-bias, bias])
    data, scaling = draft.data, draft.scaling
    dtype = margins.dtype
    scale, shift = dtype.type(scaling.scale), dtype.type(scaling.shift)
    n_classes, n_experts = data.class_experts.shape
    outputs = data.class_experts.T.tocsr()
    if n_experts < n_classes:
        # Experts that classes share get an output for every class, to be learnt.
        outputs = sparse.csr_array(outputs.toarray() + 1.0)
        outputs.data -= 1.0
    outputs.data = outputs.data * scaling.gain
    return SparseExpertModel(
        with_values(margins, scale * margins.data),
        scale * (bias * dtype.type(data.geometry.bias_feature) + shift),
        outputs.astype(dtype),
        np.full(n_classes, -scaling.threshold * scaling.gain, dtype),
    )


def margins_from_model(model, data, scaling):
    """Undo `model_from_margins`; returns (margins, bias)."""
    dtype = model.intercept.dtype
    scale = dtype.type(scaling.scale)
    bias = model.router_intercept / scale - dtype.type(scaling.shift)
    margins = with_values(model.router, model.router.data / scale)
    return margins, bias / dtype.type(data.geometry.bias_feature)


def to_single_margin(margins, bias):
    """Half the difference of two experts, as the margin of one classifier for the second.

    Returns
    -------
    margins : csr_array (n_features, 1)
    bias : ndarray (1,)
    """
    sign = np.where(margins.indices == 1, 0.5, -0.5).astype(margins.dtype)
    halves = with_values(margins, sign * margins.data)
    totals = np.asarray(halves.sum(axis=1)).ravel()
    connected = np.diff(margins.indptr) > 0
    indptr = np.concatenate([[0], np.cumsum(connected)]).astype(margins.indptr.dtype)
    indices = np.zeros(indptr[-1], margins.indices.dtype)
    joined = sparse.csr_array((totals[connected], indices, indptr), shape=(len(connected), 1))
    return joined, ((bias[1:] - bias[:1]) / 2)


def multiply_scores(model, score_factor, output_factor, intercept_factor=1.0):
    """Multiply the scores of a model, its outputs and b2, and b2 once more, by factors."""
    kind = model.intercept.dtype.type
    return SparseExpertModel(
        with_values(model.router, kind(score_factor) * model.router.data),
        kind(score_factor) * model.router_intercept,
        with_values(model.outputs, kind(output_factor) * model.outputs.data),
        kind(output_factor * intercept_factor) * model.intercept,
    )


def out_of_range(dtype):
    """Message of the error that a weight of the model is not finite."""
    return (
        "X or sample_weight holds values too large or too small to train on: a weight of the "
        f"model, or a score, is not finite in {dtype}. Scale X, for example with MaxAbsScaler."
    )
