"""The four arrays of one model."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from ._csr import check_csr, csr_arrays, unlock, with_values
from ._engines.arguments import ModelArrays


class SparseExpertModel(NamedTuple):
    """Weights of ``y = softmax(W h_sparse + b2)`` with ``h = ReLU(W1 x + b1)``."""

    router: sparse.csr_array  # W1 transposed, (n_features, n_experts)
    router_intercept: np.ndarray  # b1, (n_experts,)
    outputs: sparse.csr_array  # W transposed, (n_experts, n_classes)
    intercept: np.ndarray  # b2, (n_classes,)

    def arrays(self):
        """Return the arrays as engines take them."""
        b1, b2 = self.router_intercept, self.intercept
        return ModelArrays(
            csr_arrays(self.router), b1 if b1.flags.writeable else unlock(b1),
            csr_arrays(self.outputs), b2 if b2.flags.writeable else unlock(b2),
        )  # fmt: skip

    def check(self, n_features, n_classes):
        """Raise ValueError unless kernels can use the arrays without leaving their memory."""
        n_experts = len(self.router_intercept)
        check_csr(self.router, (n_features, n_experts), "router_coef_")
        check_csr(self.outputs, (n_experts, n_classes), "expert_coef_")
        for name, array, size in (
            ("router_intercept_", self.router_intercept, n_experts),
            ("intercept_", self.intercept, n_classes),
        ):
            if array.shape != (size,):
                raise ValueError(f"{name} has shape {array.shape}, it needs ({size},).")
        dtypes = {array.dtype for array in self.values()}
        if len(dtypes) > 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
            raise ValueError(
                "The arrays of a model need one dtype, float32 or float64 in native byte order, "
                f"got {sorted(map(str, dtypes))}."
            )
        if not all(np.isfinite(array).all() for array in self.values()):
            raise ValueError("The arrays of a model hold NaN or infinity.")

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
