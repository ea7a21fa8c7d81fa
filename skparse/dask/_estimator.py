"""The estimator that trains on a Dask cluster."""

from functools import partial
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from scipy import sparse
from sklearn.base import _fit_context, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .. import SparseExpertClassifier
from .._fit_task import report_epoch, unchanged_on_error
from .._training.expert_load import prune_unused
from .._training.problem import SCHEDULES, UPDATES_PER_EPOCH, Draft
from .._training.scores import default_scaling
from .._typing import ClassWeight, RandomState, typed
from .._validation import Samples, check_parameters, weigh_classes
from ._collections import (
    compute_checked,
    find_places,
    import_dask,
    is_dask_array,
    map_rows,
)
from ._driver import Training, choose_held_out
from ._frame import Setting
from ._partitions import build_partition

# Parameters that a fit on a cluster does not have, with the value that they need.
_NEEDED = {"weight_density": "auto", "early_stopping": False, "warm_start": False}


class DaskSparseExpertClassifier(SparseExpertClassifier):
    """A :class:`~skparse.SparseExpertClassifier` that is trained on a Dask cluster.

    The samples stay where they are. One pass sums the statistics from which a fit chooses its
    connections, the relevance of the features and the naive-Bayes start. Then come rounds: each
    partition trains an epoch from the same parameters, and the changes of all are added. Only
    statistics, parameters and scores of some held-out samples travel. The same seed and the same
    partitions give the same model, for any number of workers.

    It needs the extra "dask". Read more in :doc:`/cluster`.

    Parameters
    ----------
    n_experts : "auto" or int, default="auto"
        One expert per class; an integer has to be the number of classes.

    top_k, alpha, max_iter, batch_size, learning_rate_init, class_weight, random_state, verbose, \
engine, device, sparse_output, stream_horizon
        As in :class:`~skparse.SparseExpertClassifier`. With ``alpha="auto"`` held-out samples
        choose 1, 3 or 9, for any number of classes. `tol` and `n_iter_no_change` do not stop the
        epochs.

    weight_density, early_stopping, warm_start
        Have to be at their defaults.

    validation_fraction : float, default=0.1
        Not used.

    n_jobs : int, default=None
        Threads of predictions for samples that are in memory. A fit uses the threads of the
        workers.

    client : distributed.Client, default=None
        The client of the cluster; by default the one that was created last. It is not saved with
        the estimator.

    Attributes
    ----------
    n_partitions_ : int
        Number of partitions.

    n_rounds_ : int
        Number of rounds of training.

    bytes_per_round_ : int
        Size of the parameters. In a round, they go to every worker once. Of the changes, each as
        large, those of one worker are added before they travel if its partitions follow each
        other.

    client_ : distributed.Client
        The client that is used: `client`, or the one that was created last.

    See Also
    --------
    skparse.SparseExpertClassifier : Training on one machine.

    Notes
    -----
    A fitted estimator also has the attributes of :class:`~skparse.SparseExpertClassifier`.

    Each sample has one label, and each class one expert. There is neither the mixture of penalties
    that a fit on one machine chooses for up to 15 classes, nor are there bounds for samples and
    columns of unusually large values, nor a recipe of its own for dense X.

    Examples
    --------
    >>> from skparse.dask import DaskSparseExpertClassifier
    >>> model = DaskSparseExpertClassifier(random_state=0)
    >>> # model.fit(X, y) with Dask arrays, then model.to_local()
    """

    _parameter_constraints: dict = {
        **SparseExpertClassifier._parameter_constraints,
        "client": "no_validation",
    }

    def __init__(
        self,
        n_experts: int | Literal["auto"] = "auto",
        top_k: int = 8,
        *,
        weight_density: float | Literal["auto"] = "auto",
        alpha: float | Literal["auto"] = "auto",
        max_iter: int | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        learning_rate_init: float = 0.1,
        tol: float = 1e-4,
        n_iter_no_change: int = 3,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        class_weight: ClassWeight = None,
        warm_start: bool = False,
        random_state: RandomState = None,
        verbose: int = 0,
        n_jobs: int | None = None,
        engine: Literal["auto", "numba", "torch"] = "auto",
        device: str = "cpu",
        sparse_output: bool = True,
        stream_horizon: float | None = None,
        client: Any = None,
    ) -> None:
        super().__init__(
            n_experts, top_k, weight_density=weight_density, alpha=alpha, max_iter=max_iter,
            batch_size=batch_size, learning_rate_init=learning_rate_init, tol=tol,
            n_iter_no_change=n_iter_no_change, early_stopping=early_stopping,
            validation_fraction=validation_fraction, class_weight=class_weight,
            warm_start=warm_start, random_state=random_state, verbose=verbose, n_jobs=n_jobs,
            engine=engine, device=device, sparse_output=sparse_output,
            stream_horizon=stream_horizon,
        )  # fmt: skip
        self.client = client

    @property
    def client_(self) -> Any:
        """The client that is used: `client`, or the one that was created last."""
        distributed = import_dask("distributed")
        return distributed.default_client() if self.client is None else self.client

    @typed(_fit_context(prefer_skip_nested_validation=True))
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model to partitions on the workers.

        Parameters
        ----------
        X : Dask array of shape (n_samples, n_features), bag, or list of delayed objects or futures
            Blocks of CSR or dense arrays. A partition of a bag is a list with one block. Without
            y, each partition is a tuple of (X, y) or (X, y, sample_weight), or a list of them.
        y : Dask array of shape (n_samples,), bag, or list like X, default=None
            Class labels, in the same partitions. With a Dask array X it may be an ndarray.
        sample_weight : the same, default=None
            Non-negative weights of the samples.

        Returns
        -------
        self : DaskSparseExpertClassifier

        Raises
        ------
        TypeError, ValueError
            If the input is invalid; the estimator is left as it was.
        NotImplementedError
            If a parameter or the targets need what only a fit on one machine has.
        distributed.KilledWorker
            If the workers of a task died repeatedly; the estimator is left as it was.
        """
        check_parameters(self)
        for name, needed in _NEEDED.items():
            if getattr(self, name) != needed:
                raise NotImplementedError(
                    f"DaskSparseExpertClassifier trains with {name}={needed!r} only, got "
                    f"{getattr(self, name)!r}."
                )
        with unchanged_on_error(self):
            client = self.client_
            submit = partial(client.submit, pure=False)
            checked = compute_checked(client, X, y, sample_weight)
            contents = client.gather([submit(take_content, part) for part in checked])
            samples, setting = merge_contents(contents), self._choose_setting(contents)
            factors = np.ones(len(samples.classes))
            if self.class_weight is not None:
                factors = weigh_classes(self.class_weight, samples)
            every = choose_held_out(setting.n_samples)
            arguments = samples.classes, factors, samples.X.dtype
            find = partial(find_places, client)
            partitions = [
                submit(build_partition, part, *arguments, k, every, setting.seed, **place)
                for k, (part, place) in enumerate(zip(checked, find(checked), strict=True))
            ]
            del checked
            training = Training(submit, client.gather, find)
            training.begin(partitions, setting)
            epochs = SCHEDULES[False][0] if self.max_iter == "auto" else int(self.max_iter)
            trained = training.train(
                default_scaling(len(samples.classes), False),
                None if self.alpha == "auto" else float(self.alpha),
                epochs,
                partial(report_epoch, epochs) if self.verbose else None,
            )
            self._keep(trained, training, samples, contents)
        return self

    def predict(self, X: Any) -> Any:
        """Predict class labels.

        Parameters
        ----------
        X : Dask array, or what SparseExpertClassifier takes, of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        y : Dask array or ndarray of shape (n_samples,)
            The most probable classes. Of a Dask array they are computed block by block, once they
            are asked for.
        """
        if not is_dask_array(X):
            return super().predict(X)
        check_is_fitted(self)
        return map_rows(predict_block, X, self.to_local(), self.classes_.dtype)

    def predict_proba(self, X: Any) -> Any:
        """Predict probabilities.

        Parameters
        ----------
        X : Dask array, or what SparseExpertClassifier takes, of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        probabilities : Dask array or ndarray of shape (n_samples, n_classes)
            Columns in the order of `classes_`. Of a Dask array they are computed block by block,
            once they are asked for.
        """
        if not is_dask_array(X):
            return super().predict_proba(X)
        check_is_fitted(self)
        n_classes, dtype = len(self.classes_), self.intercept_.dtype
        return map_rows(predict_proba_block, X, self.to_local(), dtype, n_classes)

    def to_local(self) -> SparseExpertClassifier:
        """Return the ordinary estimator, fitted if this one is.

        Returns
        -------
        estimator : SparseExpertClassifier
            It shares the arrays of the model.
        """
        params = self.get_params(deep=False)
        del params["client"]
        local = SparseExpertClassifier(**params)
        own = {name: value for name, value in vars(self).items() if name not in self.get_params()}
        vars(local).update(own)
        return local

    def _choose_setting(self, contents):
        """Resolve the parameters against the data."""
        n_samples = sum(content.n_samples for content in contents)
        n_classes = len(merge_contents(contents).classes)
        if self.n_experts not in ("auto", n_classes):
            raise NotImplementedError(
                "DaskSparseExpertClassifier has one expert per class: n_experts has to be "
                f"'auto' or {n_classes}, got {self.n_experts!r}."
            )
        batch_size = SCHEDULES[False][1] if self.batch_size == "auto" else int(self.batch_size)
        batch_size = min(batch_size, n_samples)
        return Setting(
            engine=self.engine,
            device=self.device,
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
            n_classes=n_classes,
            top_k=int(self.top_k),
            batch_size=batch_size,
            learning_rate=self.learning_rate_init,
            n_samples=n_samples,
            n_visits=-(-UPDATES_PER_EPOCH * batch_size // n_samples),
        )

    def _keep(self, trained, training, samples, contents):
        """Turn what was trained into fitted attributes."""
        model = prune_unused(trained.model, trained.expert_load == 0)
        if not all(np.isfinite(array).all() for array in model.values()):
            raise ValueError(
                "X or sample_weight holds values too large or too small to train on: a weight of "
                f"the model is not finite in {samples.X.dtype}. Scale X."
            )
        names = [content.feature_names for content in contents if content.classes is not None]
        vars(self).pop("feature_names_in_", None)
        if names[0] is not None:
            self.feature_names_in_ = names[0]
        self.n_features_in_ = samples.X.shape[1]
        draft = Draft(
            data=None, scaling=trained.scaling, alpha=trained.alpha, model=model,
            loss_curve=tuple(trained.loss_curve), expert_load=trained.expert_load,
        )  # fmt: skip
        self._record(draft, self._describe(model, samples, Levels(int(self.top_k))))
        self.t_ = training.setting.weight
        self.n_partitions_ = len(contents)
        self.n_rounds_ = training.n_rounds
        self.bytes_per_round_ = trained.n_bytes

    def __getstate__(self):
        """State for pickle and the like, without the client."""
        return {**super().__getstate__(), "client": None}

    def __sklearn_clone__(self):
        """Return an unfitted estimator with the same parameters and the same client."""
        params = self.get_params(deep=False)
        client = params.pop("client")
        params = {name: clone(value, safe=False) for name, value in params.items()}
        return type(self)(**params, client=client)

    def __sklearn_tags__(self):
        """Describe the estimator to scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = False
        return tags


class Levels(NamedTuple):
    """The sparsity levels that were trained."""

    largest_top_k: int


def take_content(checked):
    """Return the `Content` of a checked partition."""
    return checked[0]


def predict_block(X, local):
    """Predict the classes of a block."""
    return local.predict(X) if X.shape[0] else np.empty(0, local.classes_.dtype)


def predict_proba_block(X, local):
    """Predict the probabilities of a block."""
    empty = np.empty((0, len(local.classes_)), local.intercept_.dtype)
    return local.predict_proba(X) if X.shape[0] else empty


def merge_contents(contents):
    """Merge the contents of partitions into one sample for each class, with its total weight.

    Raises
    ------
    ValueError
        If the partitions do not fit each other, or no sample has weight.
    """
    sizes = sorted({content.n_features for content in contents})
    if len(sizes) > 1:
        raise ValueError(f"The partitions of X have different numbers of features: {sizes}.")
    filled = [content for content in contents if content.classes is not None]
    if not filled:
        raise ValueError("The partitions hold no sample of positive weight.")
    names = [content.feature_names for content in filled]
    if any(not np.array_equal(names[0], other) for other in names):
        raise ValueError("The partitions of X have different feature names.")
    kinds = {content.classes.dtype.kind for content in filled}
    if len(kinds) > 1 and not kinds <= set("biuf"):
        raise ValueError("Some partitions have strings for labels, and others have numbers.")
    classes = np.unique(np.concatenate([content.classes for content in filled]))
    weights = np.zeros(len(classes))
    for content in filled:
        weights[np.searchsorted(classes, content.classes)] += content.class_weights
    dtype = np.result_type(*(content.dtype for content in filled))
    X = sparse.csr_array((len(classes), sizes[0]), dtype=dtype)
    labels = sparse.eye_array(len(classes), format="csr")
    return Samples(X, labels, weights, classes, multilabel=False)
