"""The four arrays of one model."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from ._csr import csr_arrays, with_values
from ._engines.arguments import ModelArrays


class SparseExpertModel(NamedTuple):
    """Weights of ``y = softmax(W h_sparse + b2)`` with ``h = ReLU(W1 x + b1)``."""

    router: sparse.csr_array  # W1 transposed, (n_features, n_experts)
    router_intercept: np.ndarray  # b1, (n_experts,)
    outputs: sparse.csr_array  # W transposed, (n_experts, n_classes)
    intercept: np.ndarray  # b2, (n_classes,)

    def arrays(self):
        """Return the arrays as engines take them."""
        return ModelArrays(
            csr_arrays(self.router), self.router_intercept,
            csr_arrays(self.outputs), self.intercept,
        )  # fmt: skip

    def values(self):
        """Return the numbers of the four arrays; those of the CSR arrays without their pattern."""
        return self.router.data, self.router_intercept, self.outputs.data, self.intercept

    def copy(self):
        """Copy the numbers. The patterns are shared, because they never change in place."""
        return SparseExpertModel(
            with_values(self.router, self.router.data.copy()),
            self.router_intercept.copy(),
            with_values(self.outputs, self.outputs.data.copy()),
            self.intercept.copy(),
        )
