"""Experts for classes that a fitted model does not have yet."""

import numpy as np
from scipy import sparse

from .._csr import with_smallest_index_dtype
from .._model import SparseExpertModel
from .prior import SMALLEST_SHARE


def add_experts(model, places, n_classes, scaling):
    """Add an expert without router weights for each new class, after the other experts.

    Parameters
    ----------
    model : SparseExpertModel
    places : ndarray of int
        Where the classes of the model are among all classes.
    n_classes : int
    scaling : ScoreScaling
        With which the model is calibrated.

    Returns
    -------
    SparseExpertModel
    """
    router, bias, outputs, intercept, temperatures, prior = model
    n_new, dtype = n_classes - len(places), intercept.dtype
    n_experts = len(bias) + n_new
    shape = router.shape[0], n_experts
    router = sparse.csr_array((router.data, router.indices, router.indptr), shape=shape)
    gain = scaling.gain * scaling.output_factor
    new = np.setdiff1d(np.arange(n_classes), places)
    entries = np.append(outputs.data, np.full(n_new, gain)).astype(dtype)
    indices = np.append(places[outputs.indices], new)
    indptr = np.append(outputs.indptr, outputs.indptr[-1] + np.arange(1, n_new + 1))
    outputs = sparse.csr_array((entries, indices, indptr), shape=(n_experts, n_classes))
    wider = np.full(n_classes, -scaling.threshold * gain, dtype)
    wider[places] = intercept
    # A score of zero: the margin that all earlier samples would have taught.
    bias = np.append(bias, np.zeros(n_new, dtype))
    outputs = with_smallest_index_dtype(outputs)
    wider_prior = np.full(n_classes, np.log(SMALLEST_SHARE), dtype)
    wider_prior[places] = prior
    return SparseExpertModel(router, bias, outputs, wider, temperatures, wider_prior)
