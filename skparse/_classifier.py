"""The estimator: parameters, validation, and the steps of a fit."""

from copy import copy
from functools import partial
from numbers import Integral, Real

import numpy as np
from joblib import effective_n_jobs
from scipy import sparse
from scipy.special import log_softmax
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.multiclass import _check_partial_fit_first_call
from sklearn.utils.validation import check_is_fitted

from . import _inputs as inputs
from . import _prediction as prediction
from . import _training as training
from ._alpha_choice import ALPHAS
from ._compression import prune, prune_experts, round_values
from ._engines import choose_engine
from ._fit_task import CallbackSupportMixin, fit_task, unchanged_on_error
from ._initialization import Exposure, ScoreMap, choose_score_map, experts_of_classes
from ._parameters import ModelParameters, with_values
from ._persistence import pack_state, packed_bytes, unpack_state

# Attributes that only some fits leave; they never outlive the fit they belong to.
_OF_SOME_FITS = (
    "best_validation_score_",
    "compression_",
    "storage_dtype_",
    "validation_scores_",
    "_exposure",
)


class SparseExpertClassifier(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClassifierMixin,
    BaseEstimator,
):
    """Classifier in which few experts speak about each sample.

    The hidden units of the network are experts::

        h = ReLU(W1 x + b1)
        h_sparse = softmax over the top K positive entries of h, zero elsewhere
        y = softmax(W h_sparse + b2)

    Few experts are active for a sample (`top_k`), and few weights connect the features to
    the experts (`weight_density`). Made for sparse, high-dimensional X such as TF-IDF.

    Read more in the user guide.

    Parameters
    ----------
    n_experts : int or "auto", default="auto"
        Number of experts. "auto" takes one per class (per label for multilabel targets).

    top_k : int, default=8
        The sparsity level K: at most this many experts are kept for a sample. If it is at
        least the number of experts, every expert with a positive score is kept. All levels
        up to `top_k` are trained at once: after the fit it can be lowered with
        ``set_params(top_k=...)``, and predictions follow without another fit.

    weight_density : float or "auto", default="auto"
        Share of the n_features x n_experts router weights that exist. "auto" connects a
        feature to the experts of the classes it occurs in, and a frequent feature also to
        the classes from which it is surprisingly absent. With a float in (0, 1], that share
        of the weights, the most influential ones, is kept; 1.0 connects every feature to
        every expert.

    alpha : float or "auto", default="auto"
        Strength of the L2 penalty on the router weights. As in
        :class:`~sklearn.neural_network.MLPClassifier` the penalty is divided by the sample
        size (here: by the sum of the sample weights) when added to the loss. It is relative
        to the mean squared norm of the samples. "auto" chooses from 1, 3 and 9 by the log-loss
        of samples that the first epochs do not see: the noisier the labels, the stronger. It
        is 1 below 2,048 samples, for multilabel targets and for a stream.

    max_iter : int, default=4
        Number of epochs in which all sparsity levels are trained, after the experts have
        been started from the data.

    batch_size : int or "auto", default="auto"
        Size of the mini-batches. "auto" is 32, and all samples at once for data of up to 128
        samples.

    learning_rate_init : float, default=0.1
        Step length of the epochs: how far the linear margin of a sample of average norm moves
        per unit of gradient.

    tol : float, default=1e-4
        Training stops when the loss (the validation score with ``early_stopping=True``) has
        not improved by at least `tol` for `n_iter_no_change` epochs.

    n_iter_no_change : int, default=3
        Number of epochs without improvement to wait for.

    early_stopping : bool, default=False
        Whether to hold out `validation_fraction` of the samples (stratified), or to use
        ``X_val`` and ``y_val`` if they are given to `fit`, and to keep the model of the epoch
        with the best validation score. Data of up to 128 samples are never split: there the
        training loss decides.

    validation_fraction : float, default=0.1
        Share of the samples to hold out with ``early_stopping=True``.

    class_weight : dict, "balanced" or list of dicts, default=None
        Weights of the classes, multiplied with the sample weights; as in
        :func:`~sklearn.utils.class_weight.compute_sample_weight`.

    warm_start : bool, default=False
        Whether `fit` continues from the fitted model, which has to have the same features
        and classes, instead of starting anew.

    random_state : int, RandomState instance or None, default=None
        Determines the order of the samples, the sparsity level of each mini-batch, the
        features that experts of one class are started without, and the validation split.
        The same seed gives the same model for any number of threads.

    verbose : int, default=0
        Whether to print loss and validation score after every epoch.

    n_jobs : int, default=None
        Number of threads. ``None`` means 1 unless in a :func:`joblib.parallel_config`
        context; ``-1`` means all processors.

    engine : {"auto", "numba", "torch"}, default="auto"
        What computes: compiled numba kernels (CPU only) or PyTorch. "auto" takes numba on
        the CPU where it is available.

    device : str, default="cpu"
        Device for the torch engine, such as "cuda". The fitted model lives in numpy arrays
        and loads on any machine.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels; ``arange(n_labels)`` for multilabel targets.

    n_features_in_ : int
        Number of features seen during `fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, only defined if X has feature names that are all strings.

    n_experts_ : int
        Number of experts.

    top_k_ : int
        The largest sparsity level that was trained; `top_k` cannot be set above it.

    router_coef_ : csr_array of shape (n_features, n_experts)
        Router weights, the transpose of W1. Only existing connections are stored.

    router_intercept_ : ndarray of shape (n_experts,)
        b1.

    expert_coef_ : csr_array of shape (n_experts, n_classes)
        Outputs of the experts, the transpose of W.

    intercept_ : ndarray of shape (n_classes,)
        b2.

    expert_load_ : ndarray of shape (n_experts,) of int
        Number of training samples that keep each expert at K = `top_k_` (for `partial_fit`:
        of the samples of all calls, each counted with the model of its time). Experts that
        none keeps have no router weights after `fit`, unless ``warm_start=True``.

    n_iter_ : int
        Number of epochs that ran.

    loss_curve_ : list of float
        Mean cross-entropy of each epoch over the sparsity levels it drew.

    validation_scores_ : list of float
        Accuracy (multilabel: subset accuracy) on the validation set after each epoch. Only
        defined with a validation set.

    best_validation_score_ : float
        The largest of them. Only defined with a validation set.

    alpha_ : float
        Strength of the L2 penalty that was used: `alpha`, or what "auto" chose.

    t_ : float
        Sample weight that the model has learnt from.

    storage_dtype_ : {"float16", "int8"} or None
        How the router weights are saved. Only defined for the copies of `compress`.

    compression_ : Bunch
        What `compress` changed. Only defined for its copies.

    See Also
    --------
    sklearn.svm.LinearSVC : Linear peer; the better choice where two to four classes and the
        smallest model matter more than probabilities.
    sklearn.neural_network.MLPClassifier : Dense network.

    Notes
    -----
    Computation and output are in the dtype of X, float32 or float64; with
    ``TfidfVectorizer(dtype=np.float32)`` model and time are smaller.

    Sample weights act as in :class:`~sklearn.svm.LinearSVC`: multiplying all of them by a
    number weakens the penalty by that number.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skparse import SparseExpertClassifier
    >>> texts = ["sparse matrix", "matrix product", "violin concerto", "piano concerto"]
    >>> labels = ["algebra", "algebra", "music", "music"]
    >>> model = make_pipeline(TfidfVectorizer(), SparseExpertClassifier(random_state=0))
    >>> model.fit(texts, labels).predict(["a concerto", "a sparse product"]).tolist()
    ['music', 'algebra']
    """

    _parameter_constraints: dict = {
        "n_experts": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "top_k": [Interval(Integral, 1, None, closed="left")],
        "weight_density": [Interval(Real, 0, 1, closed="right"), StrOptions({"auto"})],
        "alpha": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "n_jobs": [Integral, None],
        "engine": [StrOptions({"auto", "numba", "torch"})],
        "device": [str],
    }

    def __init__(
        self,
        n_experts="auto",
        top_k=8,
        *,
        weight_density="auto",
        alpha="auto",
        max_iter=4,
        batch_size="auto",
        learning_rate_init=0.1,
        tol=1e-4,
        n_iter_no_change=3,
        early_stopping=False,
        validation_fraction=0.1,
        class_weight=None,
        warm_start=False,
        random_state=None,
        verbose=0,
        n_jobs=None,
        engine="auto",
        device="cpu",
    ):
        self.n_experts = n_experts
        self.top_k = top_k
        self.weight_density = weight_density
        self.alpha = alpha
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.n_jobs = n_jobs
        self.engine = engine
        self.device = device

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None):
        """Fit the model to training samples.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels, or a binary indicator matrix for multilabel targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the samples.
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Validation samples: `validation_scores_` is recorded on them, and with
            ``early_stopping=True`` they take the place of a held-out part of X.
        y_val : array-like of shape (n_val,) or (n_val, n_labels), default=None
            Labels of the validation samples.

        Returns
        -------
        self : SparseExpertClassifier

        Raises
        ------
        ValueError
            If the input is invalid, or ``warm_start=True`` and X or y do not fit the model.
            The estimator is left as it was.
        """
        n_steps = 1 + self.max_iter  # the linear start and the epochs
        with fit_task(self, n_steps, X, y, sample_weight) as task:
            start = self._parameters() if self.warm_start and hasattr(self, "classes_") else None
            samples, classes, multilabel = inputs.check_samples(
                self, X, y, sample_weight, reset=start is None
            )
            if start is not None:
                self._check_same_classes(classes, multilabel)
            held_out = inputs.check_validation_set(self, X_val, y_val, classes, multilabel)
            random_state = check_random_state(self.random_state)
            samples, held_out = self._hold_out(samples, held_out, multilabel, random_state)
            data = self._training_data(samples, classes, continues=start is not None)
            settings = self._settings(data, multilabel, continues=start is not None)
            engine = choose_engine(self.engine, self.device)
            describe = partial(
                self._describe, classes=classes, multilabel=multilabel, continues=start is not None
            )
            train = training.train if start is None else training.train_further
            args = (data, settings, engine, random_state)
            result = train(
                *(args if start is None else (start, *args)),
                validate=self._scorer(held_out, multilabel, engine),
                report=self._report if self.verbose else None,
                begin=partial(task.begin_step, describe=describe),
            )
            self._record(result, classes, multilabel, continues=start is not None)
            self.loss_curve_ = result.loss_curve
            self.n_iter_ = len(result.loss_curve)
            self.t_ = result.exposure.total + (0.0 if start is None else self.t_)
            self.expert_load_ = self._count_load(samples.X, engine)
            if not self.warm_start:  # what has no weights could not learn in another fit
                self._prune_unused_experts()
            if held_out is not None:
                self.validation_scores_ = result.validation_scores
                self.best_validation_score_ = max(result.validation_scores)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Learn from the next samples of a stream.

        Each call visits its samples three times; features that were not seen before are
        connected on the way.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Their labels.
        classes : array-like of shape (n_classes,), default=None
            All classes that can occur, needed in the first call. For multilabel targets,
            ``arange(n_labels)``; may be left out.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the samples.

        Returns
        -------
        self : SparseExpertClassifier

        Raises
        ------
        ValueError
            If the input is invalid, or ``class_weight="balanced"``; the estimator is left as
            it was.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not possible in partial_fit: a batch does not tell "
                "the balance of the stream. Pass a dict of weights instead."
            )
        with unchanged_on_error(self):
            first_call = not hasattr(self, "router_coef_")
            if first_call and classes is None:
                _, found, is_multilabel = inputs.check_targets(
                    y if sparse.issparse(y) else np.asarray(y)
                )
                classes = found if is_multilabel else None
            _check_partial_fit_first_call(self, classes)
            samples, _, multilabel = inputs.check_samples(
                self, X, y, sample_weight, reset=first_call, classes=self.classes_
            )
            if not first_call:
                self._check_same_classes(self.classes_, multilabel)
            engine = choose_engine(self.engine, self.device)
            data = self._training_data(samples, self.classes_, continues=not first_call)
            result = training.train_on_stream(
                None if first_call else self._parameters(),
                data,
                self._settings(data, multilabel, continues=not first_call, in_stream=True),
                engine,
                check_random_state(self.random_state),
                None if first_call else self._earlier_exposure(),
            )
            self._record(result, self.classes_, multilabel, continues=not first_call)
            self._exposure = tuple(result.exposure)
            self.loss_curve_ = [*getattr(self, "loss_curve_", []), *result.loss_curve]
            self.n_iter_ = len(self.loss_curve_)
            self.t_ = result.exposure.total
            load = self._count_load(data.X, engine)
            self.expert_load_ = load if first_call else self.expert_load_ + load
        return self

    def predict(self, X):
        """Predict class labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            The most probable class; for multilabel targets an indicator matrix of int with
            the labels that are more probable than not.
        """
        X, model = self._check_prediction(X)
        if self._multilabel:
            return (prediction.compute_logits(X, *model) > 0).astype(np.int64)
        return self.classes_[prediction.compute_best_class(X, *model)]

    def predict_proba(self, X):
        """Predict probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            Columns in the order of `classes_`, in the dtype of the model. Rows add up to
            one, but for multilabel targets, where each label has its own probability.
        """
        X, model = self._check_prediction(X)
        if self._multilabel:
            return prediction.sigmoid(prediction.compute_logits(X, *model))
        return prediction.compute_probabilities(X, *model)

    def predict_proba_path(self, X, top_ks):
        """Predict probabilities at several sparsity levels in one pass.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        top_ks : array-like of int of shape (n_top_ks,)
            Sparsity levels K from 1 to `top_k_`, in any order.

        Returns
        -------
        probabilities : ndarray of shape (n_top_ks, n_samples, n_classes)
            What `predict_proba` gives with `top_k` set to each level.

        Raises
        ------
        ValueError
            If a level is no integer from 1 to `top_k_`, or there is none.
        """
        X, (parameters, _, *how) = self._check_prediction(X)
        wanted = np.minimum(inputs.check_levels(top_ks, self.top_k_), self.n_experts_)
        levels, places = np.unique(wanted, return_inverse=True)
        path = prediction.compute_logits_path(X, parameters, levels, *how)
        path = prediction.sigmoid(path) if self._multilabel else prediction.softmax(path)
        return path if np.array_equal(wanted, levels) else path[places]

    def predict_log_proba(self, X):
        """Predict logarithms of probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
        """
        X, model = self._check_prediction(X)
        logits = prediction.compute_logits(X, *model)
        if self._multilabel:
            return np.log(prediction.sigmoid(logits))
        return log_softmax(logits, axis=1)

    def decision_function(self, X):
        """Compute the logits ``W h_sparse + b2``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        logits : ndarray of shape (n_samples, n_classes) or (n_samples,)
            For two classes the logit of ``classes_[1]`` minus that of ``classes_[0]``.
        """
        X, model = self._check_prediction(X)
        logits = prediction.compute_logits(X, *model)
        if len(self.classes_) == 2 and not self._multilabel:
            return logits[:, 1] - logits[:, 0]
        return logits

    def transform(self, X):
        """Compute the sparse codes ``h_sparse``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        codes : csr_array of shape (n_samples, n_experts)
            Gate weights of the kept experts, at most `top_k` a row. Rows add up to one, or
            are empty if no expert has a positive score.
        """
        X, model = self._check_prediction(X)
        return prediction.compute_codes(X, *model)

    def model_size(self):
        """Measure the fitted model.

        Returns
        -------
        size : Bunch
            n_weights : int
                Numbers that the model stores: router weights, outputs, intercepts.
            n_bytes : int
                Bytes that they and their pattern take in a saved model.
            weights_per_feature : float
                Mean number of experts that a feature is connected to.
            weight_density : float
                Share of the n_features x n_experts router weights that exist.
            multiply_adds_per_nonzero : float
                Mean number of multiply-adds for each nonzero of a sample, each feature
                counted alike: equal to `weights_per_feature`.
            multiply_adds_per_sample : float
                What comes on top once per sample: at most K experts times their outputs.
        """
        check_is_fitted(self)
        parameters = self._parameters()
        per_feature = parameters.router.nnz / parameters.router.shape[0]
        outputs = parameters.expert.nnz / parameters.expert.shape[0]
        return Bunch(
            n_weights=sum(len(array) for array in parameters.arrays()),
            n_bytes=packed_bytes(parameters, getattr(self, "storage_dtype_", None)),
            weights_per_feature=per_feature,
            weight_density=per_feature / self.n_experts_,
            multiply_adds_per_nonzero=per_feature,
            multiply_adds_per_sample=self._checked_top_k() * outputs,
        )

    @validate_params(
        {
            "dtype": [StrOptions({"float16", "int8"}), None],
            "density": [Interval(Real, 0, 1, closed="right"), None],
        },
        prefer_skip_nested_validation=True,
    )
    def compress(self, dtype="float16", *, density=None, X=None):
        """Make a smaller copy of the fitted model.

        The weights of the copy are rounded to what `dtype` can hold, and it is saved in that
        form: saving and loading it loses nothing more. In memory it computes as before.

        Parameters
        ----------
        dtype : {"float16", "int8"} or None, default="float16"
            Storage of the router weights. float16 keeps three decimal digits; int8 keeps 255
            levels per expert. None leaves them as they are.
        density : float, default=None
            Share of the n_features x n_experts router weights to keep, those of the largest
            magnitude (times the root mean square of their features if X is given).
        X : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
            Samples on which the change of the predictions is measured.

        Returns
        -------
        compressed : SparseExpertClassifier
            Fitted copy. Its `compression_` tells what changed: a Bunch of `n_bytes_before`,
            `n_bytes` and `largest_weight_change`, and with X of `changed_predictions` (share
            of the samples, or of all labels for multilabel targets) and
            `largest_probability_change`.

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        check_is_fitted(self)
        parameters = self._parameters()
        if density is not None:
            scale = np.ones(self.n_features_in_, parameters.dtype)
            if X is not None:
                samples = inputs.check_features(self, X)
                scale = np.sqrt(with_values(samples, samples.data**2).mean(axis=0))
            parameters = prune(parameters, scale, density)
        router = parameters.router
        if dtype is not None:
            router = round_values(router, dtype)
        compressed = copy(self)
        compressed.router_coef_ = router
        compressed.storage_dtype_ = dtype
        change = abs(router - self.router_coef_)
        compressed.compression_ = Bunch(
            n_bytes_before=self.model_size().n_bytes,
            n_bytes=compressed.model_size().n_bytes,
            largest_weight_change=float(change.data.max(initial=0)),
        )
        if X is not None:
            changed = compressed.predict(X) != self.predict(X)
            probabilities = compressed.predict_proba(X) - self.predict_proba(X)
            compressed.compression_.changed_predictions = float(changed.mean())
            compressed.compression_.largest_probability_change = float(
                np.abs(probabilities).max(initial=0)
            )
        return compressed

    def __getstate__(self):
        """State for pickle and the like: compact arrays, stamped with the version."""
        from . import __version__

        return pack_state(super().__getstate__(), __version__)

    def __setstate__(self, state):
        """Restore the state; warns if another version of skparse saved it."""
        from . import __version__

        super().__setstate__(unpack_state(state, __version__, type(self).__name__))

    def __sklearn_tags__(self):
        """Describe the estimator to scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        return tags

    @property
    def _n_features_out(self):
        return self.n_experts_

    def _parameters(self):
        return ModelParameters(
            self.router_coef_, self.router_intercept_, self.expert_coef_, self.intercept_
        )

    def _check_prediction(self, X):
        """Validate X; returns (X, (parameters, K, engine, n_jobs))."""
        check_is_fitted(self)
        X = inputs.check_features(self, X)
        engine = choose_engine(self.engine, self.device)
        parameters = prediction.connect_for_many(X, self._parameters())
        return X, (parameters, self._checked_top_k(), engine, self.n_jobs)

    def _checked_top_k(self):
        """Return the current K, at most the number of experts; raises if it was not trained."""
        if not (isinstance(self.top_k, Integral) and 1 <= self.top_k <= self.top_k_):
            raise ValueError(
                f"top_k={self.top_k!r} is not a sparsity level that was trained: it has to be an "
                f"integer in [1, {self.top_k_}]; fit again to raise it."
            )
        return min(int(self.top_k), self.n_experts_)

    def _check_same_classes(self, classes, multilabel):
        if multilabel != self._multilabel or not np.array_equal(classes, self.classes_):
            raise ValueError(
                "A fitted model can only learn more about the classes it has: it was fitted "
                f"with classes {self.classes_}, y has {classes}."
            )

    def _hold_out(self, samples, held_out, multilabel, random_state):
        """Split off a validation set if early stopping needs one; returns (samples, held_out)."""
        n = samples.X.shape[0]
        if not self.early_stopping or held_out is not None or n <= training.SMALL_SAMPLE:
            return samples, held_out
        counts = np.asarray(samples.labels.sum(axis=0)).ravel()
        can_stratify = not multilabel and counts[counts > 0].min() > 1
        kept, out = train_test_split(
            np.arange(n),
            test_size=self.validation_fraction,
            random_state=random_state,
            stratify=samples.labels.indices if can_stratify else None,
        )
        return (inputs.Samples(*(part[rows] for part in samples)) for rows in (kept, out))

    def _training_data(self, samples, classes, *, continues):
        X, weight = samples.X, samples.sample_weight
        if continues:
            dtype = self.router_coef_.dtype
            X, weight = X.astype(dtype, copy=False), weight.astype(dtype, copy=False)
        n_experts = len(classes) if self.n_experts == "auto" else self.n_experts
        if continues:
            n_experts = self.n_experts_
        class_experts = experts_of_classes(n_experts, len(classes))
        return training.TrainingData(X, samples.labels, weight, class_experts)

    def _settings(self, data, multilabel, *, continues, in_stream=False):
        n, (n_classes, n_experts) = data.X.shape[0], data.class_experts.shape
        in_full = n <= training.SMALL_SAMPLE and not in_stream
        automatic = n if in_full else min(training.BATCH_SIZE, n)
        batch_size = automatic if self.batch_size == "auto" else min(self.batch_size, n)
        # A model is trained further with the map it was calibrated to.
        score_map = choose_score_map(n_classes, multilabel)
        alpha = ALPHAS[0] if self.alpha == "auto" else self.alpha
        if continues:
            score_map = ScoreMap(*self._score_map)
            alpha = self.alpha_ if self.alpha == "auto" else self.alpha
        return training.TrainingSettings(
            top_k=self.top_k,
            weight_density=None if self.weight_density == "auto" else self.weight_density,
            alpha=alpha,
            chooses_alpha=self.alpha == "auto",
            max_iter=1 if in_stream else self.max_iter,
            batch_size=batch_size,
            learning_rate=self.learning_rate_init,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            early_stopping=self.early_stopping,
            full_batch=batch_size == n and not in_stream,
            in_stream=in_stream,
            n_threads=effective_n_jobs(self.n_jobs),
            multilabel=multilabel,
            score_map=score_map,
            opposite_pair=(
                not multilabel and n_classes == n_experts == 2 and self.weight_density == "auto"
            ),
        )

    def _earlier_exposure(self):
        """Return what a stream has learnt from; of a model from `fit` only the total is known."""
        if hasattr(self, "_exposure"):
            return Exposure(*self._exposure)
        return Exposure(np.zeros(self.n_features_in_), np.zeros(self.n_experts_), self.t_)

    def _scorer(self, held_out, multilabel, engine):
        """Accuracy of `ModelParameters` on the held-out samples, or None without them."""
        if held_out is None:
            return None
        X = held_out.X

        def score(parameters):
            top_k = min(self.top_k, len(parameters.router_intercept))
            model = (parameters, top_k, engine, self.n_jobs)
            if multilabel:
                said = prediction.compute_logits(X, *model) > 0
                return float((said == held_out.labels.toarray()).all(axis=1).mean())
            return float(
                (prediction.compute_best_class(X, *model) == held_out.labels.indices).mean()
            )

        return score

    def _report(self, epoch, loss, score):
        validation = "" if score is None else f", validation score {score:.4f}"
        print(f"Epoch {epoch + 1}/{self.max_iter}, loss {loss:.6f}{validation}")

    def _describe(self, parameters, classes, multilabel, *, continues):
        """Fitted attributes with which this estimator predicts as the parameters say."""
        return {
            "router_coef_": parameters.router,
            "router_intercept_": parameters.router_intercept,
            "expert_coef_": parameters.expert,
            "intercept_": parameters.intercept,
            "n_experts_": len(parameters.router_intercept),
            "top_k_": max(int(self.top_k), self.top_k_ if continues else 0),
            "classes_": classes,
            "_multilabel": multilabel,
        }

    def _record(self, result, classes, multilabel, *, continues):
        """Turn what was trained into fitted attributes; those of earlier fits do not stay."""
        described = self._describe(result.parameters, classes, multilabel, continues=continues)
        vars(self).update(described)
        self._score_map = [float(value) for value in result.score_map]
        self.alpha_ = float(result.alpha)
        for name in _OF_SOME_FITS:
            vars(self).pop(name, None)

    def _prune_unused_experts(self):
        """Store nothing of the experts that no training sample keeps."""
        parameters = prune_experts(self._parameters(), self.expert_load_ == 0)
        self.router_coef_ = parameters.router
        self.router_intercept_ = parameters.router_intercept

    def _count_load(self, X, engine):
        top_k = min(self.top_k_, self.n_experts_)
        return prediction.count_load(X, self._parameters(), top_k, engine, self.n_jobs)
