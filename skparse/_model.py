"""The arrays of one model."""

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
    # Of complete models only:
    temperatures: np.ndarray | None = None  # (n_levels,), that divide the logits, at K = 1, 2, ...
    prior_logits: np.ndarray | None = None  # (n_classes,), of a sample without a connected feature

    def temperature(self, top_k):
        """Return the temperature of a level; it is one at all levels above the known ones."""
        if self.temperatures is None or top_k > len(self.temperatures):
            return 1.0
        return float(self.temperatures[top_k - 1])

    def at_level(self, top_k):
        """Divide what makes the logits by the temperature of a level."""
        factor = self.intercept.dtype.type(1 / self.temperature(top_k))
        if factor == 1:
            return self
        outputs = with_values(self.outputs, factor * self.outputs.data)
        return self._replace(outputs=outputs, intercept=factor * self.intercept)

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
        self._check_extras(n_classes)
        dtypes = {array.dtype for array in self.values()}
        if len(dtypes) > 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
            raise ValueError(
                "The arrays of a model need one dtype, float32 or float64 in native byte order, "
                f"got {sorted(map(str, dtypes))}."
            )
        if not all(np.isfinite(array).all() for array in self.values()):
            raise ValueError("The arrays of a model hold NaN or infinity.")

    def _check_extras(self, n_classes):
        """Raise ValueError unless temperatures are positive, and prior logits finite."""
        prior, temperatures = self.prior_logits, self.temperatures
        if prior is not None and not (
            np.shape(prior) == (n_classes,)
            and np.asarray(prior).dtype == self.intercept.dtype
            and np.isfinite(prior).all()
        ):
            raise ValueError(
                f"prior_logits_ has to be {n_classes} finite numbers of the dtype of intercept_."
            )
        if temperatures is not None:
            values = np.asarray(temperatures)
            is_right = values.ndim == 1 and values.dtype.kind == "f" and len(values) > 0
            if not (is_right and np.isfinite(values).all() and values.min() > 0):
                raise ValueError("temperatures_ has to be an array of positive finite numbers.")

    def values(self):
        """Return the numbers of the four arrays; those of the CSR arrays without their pattern."""
        return self.router.data, self.router_intercept, self.outputs.data, self.intercept

    def copy(self):
        """Copy the numbers. The patterns are shared, because they never change in place."""
        return self._replace(
            router=with_values(self.router, self.router.data.copy()),
            router_intercept=self.router_intercept.copy(),
            outputs=with_values(self.outputs, self.outputs.data.copy()),
            intercept=self.intercept.copy(),
        )
