"""The sparse expert model as a PyTorch module, on sparse batches and on any device."""

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from ._gating import check_top_k, keep_top
from ._weighted_rows import sum_weighted_rows
from .functional import SparseActivation

if TYPE_CHECKING:
    from .. import SparseExpertClassifier

DEFAULT_TOP_K = 8
PATTERNS = "router_indptr", "router_indices", "output_indptr", "output_indices"


class SparseExpertNetwork(nn.Module):
    """The network of `SparseExpertClassifier` as a module, on sparse or dense batches.

    ``h = ReLU(W1 x + b1)``. The top K positive entries of h are kept and weighted by a softmax
    over them. The output is the logits ``W h_sparse + b2``. W1 and W are sparse: only the
    connections of their patterns exist. The compiled kernels are tested against it.

    Build it with `from_estimator` from a fitted classifier, with `fully_connected`, or from
    patterns.

    Parameters
    ----------
    router_indptr : array-like of int (n_features + 1,)
    router_indices : array-like of int (n_connections,)
        Pattern of the router weights in CSR form: the experts that each feature is
        connected to.
    n_experts : int
    output_indptr : array-like of int (n_experts + 1,)
    output_indices : array-like of int (n_outputs,)
        Pattern of the outputs in CSR form: the classes that each expert is connected to.
    n_classes : int
    top_k : int, default=8
        The sparsity level K, at least 1. It can be set at any time. All experts with a
        positive score are kept if it is at least n_experts.
    dtype : torch.dtype, default=torch.float32
    device : torch.device or str, default=None

    Attributes
    ----------
    router_values : nn.Parameter (n_connections,)
    router_intercept : nn.Parameter (n_experts,)
    output_values : nn.Parameter (n_outputs,)
    intercept : nn.Parameter (n_classes,)
    temperatures : torch.Tensor (n_levels,) or None
        What the logits are divided by at K = 1, 2, ..., of the estimator that it was built from.
    prior_logits : torch.Tensor (n_classes,) or None
        Logits of a sample whose scores are b1 alone, of that estimator.
    training_top_k : int or None
        The K of the forward passes in training mode; `top_k` if None. `NestedTopK` sets it.

    Examples
    --------
    >>> import torch
    >>> from skparse import SparseExpertClassifier
    >>> from skparse.nn import SparseExpertNetwork
    >>> classifier = SparseExpertClassifier(random_state=0)
    >>> X, y = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], ["a", "a", "b"]
    >>> network = SparseExpertNetwork.from_estimator(classifier.fit(X, y))
    >>> logits = network(torch.tensor(X, dtype=torch.float64))
    >>> bool(abs(logits.softmax(1).detach().numpy() - classifier.predict_proba(X)).max() < 1e-6)
    True
    """

    def __init__(
        self,
        router_indptr: ArrayLike,
        router_indices: ArrayLike,
        n_experts: int,
        output_indptr: ArrayLike,
        output_indices: ArrayLike,
        n_classes: int,
        *,
        top_k: int = DEFAULT_TOP_K,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        patterns = router_indptr, router_indices, output_indptr, output_indices
        self._allocate(patterns, n_experts, n_classes, top_k, dtype, device)
        self.reset_parameters()

    def _allocate(self, patterns, n_experts, n_classes, top_k, dtype, device):
        self.n_experts = n_experts
        self.n_classes = n_classes
        self.top_k = top_k
        self.training_top_k = None
        for name, pattern in zip(PATTERNS, patterns, strict=True):
            self.register_buffer(name, _as_index(pattern, device))
        for name in ("temperatures", "prior_logits"):
            self.register_buffer(name, None)
        self.n_features = len(self.router_indptr) - 1
        sizes = {
            "router_values": len(self.router_indices),
            "router_intercept": n_experts,
            "output_values": len(self.output_indices),
            "intercept": n_classes,
        }
        for name, size in sizes.items():
            zeros = torch.zeros(size, dtype=dtype, device=device)
            setattr(self, name, nn.Parameter(zeros))

    @property
    def top_k(self) -> int:
        """The sparsity level K."""
        return self._top_k

    @top_k.setter
    def top_k(self, top_k: int) -> None:
        self._top_k = check_top_k(top_k)

    def reset_parameters(self) -> None:
        """Draw all parameters anew, from the global generator as other modules do.

        All experts start with a positive score, and with different outputs.
        """
        per_expert = len(self.router_indices) / max(1, self.n_experts)
        bound = max(1.0, per_expert) ** -0.5
        nn.init.uniform_(self.router_values, -bound, bound)
        nn.init.ones_(self.router_intercept)
        nn.init.uniform_(self.output_values, -1.0, 1.0)
        nn.init.zeros_(self.intercept)

    def extra_repr(self) -> str:
        """Describe the module in its printed form."""
        return (
            f"n_features={self.n_features}, n_experts={self.n_experts}, "
            f"n_classes={self.n_classes}, top_k={self.top_k}, "
            f"n_connections={len(self.router_indices)}"
        )

    @classmethod
    def fully_connected(
        cls, n_features: int, n_experts: int, n_classes: int, **options: Any
    ) -> Self:
        """Build a new network in which every feature has every expert, and these all classes.

        Parameters
        ----------
        n_features, n_experts, n_classes : int
        **options : dict
            `top_k`, `dtype` and `device`.

        Returns
        -------
        SparseExpertNetwork
        """
        router = _full_pattern(n_features, n_experts)
        outputs = _full_pattern(n_experts, n_classes)
        return cls(*router, n_experts, *outputs, n_classes, **options)

    @classmethod
    def from_estimator(
        cls,
        classifier: "SparseExpertClassifier",
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Build the module of a fitted classifier, whose numbers are copied.

        Parameters
        ----------
        classifier : SparseExpertClassifier
            Fitted; not the pipeline that it is in.
        dtype : torch.dtype, default=None
            That of the classifier if None.
        device : torch.device or str, default=None

        Returns
        -------
        SparseExpertNetwork
            The softmax of its output (with several labels per sample the sigmoid) is
            `predict_proba` of the classifier, and its `top_k` that of the classifier.

        Raises
        ------
        ValueError
            If the classifier is not fitted, or is none.
        """
        network = cls.from_model(_model_of(classifier), device)
        network.top_k = classifier.top_k
        return network if dtype is None else network.to(dtype)

    def to_estimator(self, classifier: "SparseExpertClassifier") -> "SparseExpertClassifier":
        """Return the weights to a classifier.

        Parameters
        ----------
        classifier : SparseExpertClassifier
            Fitted, with the patterns of this network, such as the one that it was built from.
            It is not changed.

        Returns
        -------
        classifier : SparseExpertClassifier
            A copy with the weights of this network, in the dtype of `classifier`. Its parameters,
            `top_k` included, are those of `classifier`. What a fit records, such as
            `loss_curve_` and `expert_load_`, stays that of its fit.

        Raises
        ------
        ValueError
            If the classifier is not fitted, or has other patterns.
        """
        model = _model_of(classifier)
        pattern = *_pattern(model.router), *_pattern(model.outputs)
        for name, theirs in zip(PATTERNS, pattern, strict=True):
            mine = getattr(self, name)
            if not np.array_equal(mine.cpu().numpy(), theirs):
                raise ValueError(
                    "The classifier has other connections than this network; to_estimator takes "
                    "the one that the network was built from, or a copy."
                )
        trained = copy.copy(classifier)
        # The weights are no longer rounded to what `compress` stores.
        for name in ("storage_dtype_", "compression_"):
            vars(trained).pop(name, None)
        dtype = model.router_intercept.dtype
        router, router_intercept, outputs, intercept = (
            array.astype(dtype) for array in self.arrays()
        )
        trained.router_coef_ = _with_values(model.router, router)
        trained.router_intercept_ = router_intercept
        trained.expert_coef_ = _with_values(model.outputs, outputs)
        trained.intercept_ = intercept
        return trained

    @classmethod
    def from_model(cls, model: Any, device: torch.device | str | None = None) -> Self:
        """Build the module of a model in arrays, whose numbers are copied.

        Parameters
        ----------
        model : object with the attributes of the model
            ``router`` and ``outputs`` have ``indptr``, ``indices`` and ``data`` of a CSR matrix,
            (n_features, n_experts) and (n_experts, n_classes). ``router_intercept`` (n_experts,)
            and ``intercept`` (n_classes,) are arrays. ``temperatures`` (n_levels,) and
            ``prior_logits`` (n_classes,) may be missing, or None.
        device : torch.device or str, default=None

        Returns
        -------
        SparseExpertNetwork
            In the dtype of ``router_intercept``.
        """
        router, outputs = model.router, model.outputs
        router_intercept, intercept = model.router_intercept, model.intercept
        network = cls.__new__(cls)  # `__init__` would draw numbers
        nn.Module.__init__(network)
        dtype = getattr(torch, router_intercept.dtype.name)
        sizes = len(router_intercept), len(intercept)
        patterns = *_pattern(router), *_pattern(outputs)
        network._allocate(patterns, *sizes, DEFAULT_TOP_K, dtype, device)
        values = router.data, router_intercept, outputs.data, intercept
        with torch.no_grad():
            for mine, theirs in zip(network.parameters(), values, strict=True):
                mine.copy_(torch.tensor(theirs))
        for name in ("temperatures", "prior_logits"):
            extra = getattr(model, name, None)
            if extra is not None:
                setattr(network, name, torch.tensor(extra, dtype=dtype, device=device))
        return network

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Values of the parameters as numpy arrays on the CPU.

        Returns
        -------
        tuple of ndarray
            Router weights, router intercept, output weights, intercept.
        """
        return tuple(value.detach().cpu().numpy() for value in self.parameters())

    def router_scores(
        self, indptr: torch.Tensor, indices: torch.Tensor, data: torch.Tensor
    ) -> torch.Tensor:
        """Scores ``W1 x + b1`` before the ReLU, (n_samples, n_experts), of rows in CSR parts."""
        n_samples = len(indptr) - 1
        counts = torch.diff(indptr)
        samples = torch.repeat_interleave(torch.arange(n_samples, device=counts.device), counts)
        nonzeros, connections = expand_rows(self.router_indptr, indices.long())
        products = data[nonzeros] * self.router_values[connections]
        places = samples[nonzeros] * self.n_experts + self.router_indices[connections]
        scores = products.new_zeros(n_samples * self.n_experts).index_add(0, places, products)
        return scores.view(n_samples, self.n_experts) + self.router_intercept

    def logits(self, h: torch.Tensor, top_k: int) -> torch.Tensor:
        """Logits from router scores ``h`` (n_samples, n_experts), (n_samples, n_classes)."""
        logits = self._weighted_outputs(*keep_top(h, top_k)) + self.intercept
        return self._temper(logits, top_k)

    def _temper(self, logits, top_k):
        """Divide the logits by the temperature of their level."""
        if self.temperatures is None or top_k > len(self.temperatures):
            return logits
        return logits / self.temperatures[top_k - 1]

    def logits_path(self, h: torch.Tensor, top_ks: Sequence[int]) -> torch.Tensor:
        """Logits at every K of an ascending list, (n_top_ks, n_samples, n_classes)."""
        experts, weights = keep_top(h, top_ks[-1])
        outputs = weights.new_zeros(len(h), self.n_classes)
        totals = weights.new_zeros(len(h), 1)
        path, before = [], 0
        for top_k in top_ks:
            # Add the next experts. Divided by their sum, the weights are those of this K.
            added = slice(before, top_k)
            outputs = outputs + self._weighted_outputs(experts[:, added], weights[:, added])
            totals = totals + weights[:, added].sum(dim=1, keepdim=True)
            logits = outputs / torch.where(totals > 0, totals, 1.0) + self.intercept
            path.append(self._temper(logits, top_k))
            before = top_k
        return torch.stack(path)

    def _weighted_outputs(self, experts, weights):
        """Weighted sums of the outputs of some experts of each sample, (n_samples, n_classes)."""
        if torch.compiler.is_compiling():  # which needs to know all shapes
            return sum_weighted_rows(self.output_matrix(), experts, weights)
        kept, outputs = expand_rows(self.output_indptr, experts.flatten())
        places = (kept // experts.shape[1]) * self.n_classes + self.output_indices[outputs]
        products = weights.flatten()[kept] * self.output_values[outputs]
        summed = products.new_zeros(len(weights) * self.n_classes).index_add(0, places, products)
        return summed.view(len(weights), self.n_classes)

    def forward(self, X: torch.Tensor, top_k: int | None = None) -> torch.Tensor:
        """Logits of a batch.

        Parameters
        ----------
        X : torch.Tensor (..., n_features) or torch sparse tensor (n_samples, n_features)
            Dense, with any number of leading dimensions, or sparse in any layout. A dense X is
            multiplied by the router as a dense matrix, for which n_features x n_experts numbers
            are allocated.
        top_k : int, default=None
            The K of this call; the attribute if None.

        Returns
        -------
        logits : torch.Tensor (..., n_classes)

        Raises
        ------
        ValueError
            If X has another number of features, or is sparse and not of two dimensions.
        """
        h = self._scores(X)
        scores = h.reshape(-1, self.n_experts)
        logits = self.logits(scores, self._choose_top_k(top_k))
        if self.prior_logits is not None:
            is_empty = (scores == self.router_intercept).all(dim=1, keepdim=True)
            logits = torch.where(is_empty, self.prior_logits, logits)
        return logits.view(*h.shape[:-1], self.n_classes)

    def route(self, X: torch.Tensor, top_k: int | None = None) -> SparseActivation:
        """Choose the experts.

        Parameters
        ----------
        X, top_k
            As in `forward`.

        Returns
        -------
        SparseActivation
            Named tuple of `expert_indices` and `expert_weights`, both (..., K), the largest
            weight first.
        """
        return SparseActivation(*keep_top(self._scores(X), self._choose_top_k(top_k)))

    def _choose_top_k(self, top_k):
        if top_k is not None:
            return check_top_k(top_k)
        if self.training and self.training_top_k is not None:
            return self.training_top_k
        return self._top_k

    def _scores(self, X):
        """Scores ``W1 x + b1`` before the ReLU, (..., n_experts), of a dense or sparse X."""
        if X.shape[-1:] != (self.n_features,):
            raise ValueError(
                f"X has to have {self.n_features} features in its last dimension, got the shape "
                f"{tuple(X.shape)}."
            )
        if X.layout == torch.strided:
            return X @ self.router_matrix() + self.router_intercept
        if X.ndim != 2:
            raise ValueError(f"A sparse X has to have two dimensions, got {X.ndim}.")
        X = X if X.layout == torch.sparse_csr else X.to_sparse_csr()
        return self.router_scores(X.crow_indices(), X.col_indices(), X.values())

    def router_matrix(self) -> torch.Tensor:
        """W1 transposed as a dense tensor (n_features, n_experts)."""
        return _densify(
            self.router_indptr, self.router_indices, self.router_values, self.n_experts
        )

    def output_matrix(self) -> torch.Tensor:
        """W transposed as a dense tensor (n_experts, n_classes)."""
        return _densify(
            self.output_indptr, self.output_indices, self.output_values, self.n_classes
        )


def expand_rows(indptr, rows):
    """List the entries of the given rows of a CSR pattern.

    Returns
    -------
    positions : torch.Tensor of int64
        For every entry, the position in ``rows`` it belongs to.
    entries : torch.Tensor of int64
        Its position in the pattern.
    """
    counts = indptr[rows + 1] - indptr[rows]
    positions = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
    first = torch.cumsum(counts, 0) - counts
    within = torch.arange(len(positions), device=rows.device) - first[positions]
    return positions, indptr[rows][positions] + within


def _as_index(pattern, device):
    return torch.tensor(np.asarray(pattern), dtype=torch.int64, device=device)


def _densify(indptr, indices, values, n_columns):
    """Dense tensor of a CSR pattern and its values."""
    n_rows = len(indptr) - 1
    rows = torch.arange(n_rows, device=indices.device).repeat_interleave(
        indptr.diff(), output_size=len(indices)
    )
    flat = values.new_zeros(n_rows * n_columns).index_add(0, rows * n_columns + indices, values)
    return flat.view(n_rows, n_columns)


def _full_pattern(n_rows, n_columns):
    indptr = np.arange(0, n_rows * n_columns + 1, n_columns)
    return indptr, np.tile(np.arange(n_columns), n_rows)


def _model_of(classifier):
    """Return the arrays of a fitted classifier in the form that `from_model` takes."""
    if not hasattr(classifier, "router_coef_"):
        raise ValueError(
            "classifier has to be a fitted SparseExpertClassifier (of a pipeline, its last step), "
            f"got {type(classifier).__name__}."
        )
    return SimpleNamespace(
        router=classifier.router_coef_,
        router_intercept=classifier.router_intercept_,
        outputs=classifier.expert_coef_,
        intercept=classifier.intercept_,
        temperatures=classifier.temperatures_,
        prior_logits=classifier.prior_logits_,
    )


def _pattern(matrix):
    return matrix.indptr, matrix.indices


def _with_values(matrix, values):
    """Copy of a CSR array with other values."""
    return type(matrix)((values, *_pattern(matrix)[::-1]), shape=matrix.shape)
