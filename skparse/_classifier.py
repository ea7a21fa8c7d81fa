"""The estimator: parameters, documentation, and thin methods."""

from copy import copy
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.special import log_softmax
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.multiclass import _check_partial_fit_first_call
from sklearn.utils.validation import check_is_fitted

from . import _stream_fit as streams
from . import _validation as validation
from ._compression import measure_change, prune, round_values
from ._csr import with_values
from ._documentation import DocumentedMixin
from ._engines import get_engine
from ._fit_options import resolve_options
from ._fit_task import CallbackSupportMixin, fit_task, report_epoch, unchanged_on_error
from ._model import SparseExpertModel
from ._persistence import CHECKED_KEY, pack_state, packed_bytes, unpack_state
from ._predictor import Predictor, densify_two_experts, measure_accuracy, sigmoid, softmax
from ._training.columns import Columns
from ._training.data import SMALL_SAMPLE, build_training_data, share_experts
from ._training.penalty import ALPHAS
from ._training.problem import Monitor
from ._training.recipes import DENSE, DENSE_FURTHER, FURTHER, STREAM, TEXT, train
from ._training.scores import ScoreScaling, default_scaling
from ._typing import Array, ClassWeight, FloatArray, RandomState, SamplesLike, typed

MAX_LOSSES = 10_000  # that are kept: those of a stream would grow without end
# Attributes that only some fits leave; they never outlive the fit they belong to.
_OF_SOME_FITS = (
    "best_validation_score_", "compression_", "storage_dtype_", "validation_scores_",
    "_exposure", "_columns", "_stream",
)  # fmt: skip


class SparseExpertClassifier(
    CallbackSupportMixin,
    DocumentedMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClassifierMixin,
    BaseEstimator,
):
    """A sparse mixture-of-experts classifier: each sample uses its top K experts.

    The hidden units of the network are the experts::

        h = ReLU(W1 x + b1)
        h_sparse = softmax over the top K positive entries of h, zero elsewhere
        y = softmax(W h_sparse + b2)

    At most `top_k` experts are active for a sample, and `weight_density` limits how many weights
    connect the features to the experts. It is made for sparse, high-dimensional X such as TF-IDF.

    X is dense if more than half of its entries are nonzero, in whatever container it comes. From
    129 samples with one label each, the experts of dense X are prototypes: each class has several,
    which start at clusters of its samples. The columns are standardised during the training.

    Read more in the :doc:`user guide </user_guide>`.

    Parameters
    ----------
    n_experts : int or "auto", default="auto"
        Number of experts. With one per class the model is nearly linear. With several, each
        expert of a class learns one cluster of its samples, which pays where a class is made
        of different things. Size of the model and time of a prediction grow with them.

        For sparse X, "auto" takes eight per class if a trial on part of the samples gains by
        it, else one. The trial needs 1,024 samples and 320 per class within 250,000 nonzeros,
        and a `weight_density` of "auto". For dense X, "auto" takes up to 16 per class and 256
        together, fewer for small classes. It takes one per class (per label) for multilabel
        targets and for a stream. An integer is taken as it is, without a trial; below the
        number of classes, classes share experts.

    top_k : int, default=8
        The sparsity level K: at most this many experts are kept for a sample. If it is at
        least the number of experts, every expert with a positive score is kept. All levels
        up to `top_k` are trained at once: after the fit it can be lowered with
        ``set_params(top_k=...)``, and predictions follow without another fit. With one expert
        per class it changes the probabilities and hardly the predicted class.

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
        to the mean squared norm of the samples. Noisy labels need a strong one. With "auto" up
        to 15 classes get a mixture of penalties from 0.3 to 27, whose weights cross-fitting
        chooses. For more classes 1, 3 or 9 is chosen by the losses of held-out samples; it
        is 1 for fewer than 2,048 samples and for multilabel targets. A stream estimates it
        from the share of wrong labels.

        For dense X it is relative to the root mean squared norm of the standardised samples,
        sqrt(n_features), and "auto" chooses 0.2, 0.05 or 0.0125.

    max_iter : int or "auto", default="auto"
        Number of epochs, after the experts have been started from the data. "auto" is 4 for
        sparse X and 40 for dense X. A mixture of penalties has no such epochs, and there is
        none with a given number of epochs.

    batch_size : int or "auto", default="auto"
        Size of the mini-batches. "auto" is 32, 64 for dense X, and all samples at once for
        data of up to 128 samples.

    learning_rate_init : float, default=0.1
        Step length of the epochs: how far the linear margin of a sample of average norm moves
        per unit of gradient. For dense X, Adam starts with steps of 0.2 times this number.

    tol : float, default=1e-4
        Training stops when the loss (the validation score with ``early_stopping=True``) has
        not improved by at least `tol` for `n_iter_no_change` epochs. For dense X, whose steps
        become shorter with every epoch, it does not stop in the first half of the epochs, and
        with ``max_iter="auto"`` the training loss does not stop it.

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
        Weights of the classes, multiplied with the sample weights. "balanced" gives all
        classes the same total weight, in which the sample weights count. For multilabel
        targets it is the geometric mean over the labels; otherwise a list of one dict per
        label, ``{0: weight, 1: weight}``, whose weights are multiplied.

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
        Number of threads. ``None`` means 1 unless in a :class:`joblib.parallel_config`
        context; ``-1`` means all processors.

    engine : {"auto", "numba", "torch"}, default="auto"
        The code that computes: compiled numba kernels (CPU only) or PyTorch. "auto" is numba
        on the CPU where it is available.

    device : str, default="cpu"
        Device for the torch engine, such as "cuda". The arrays of the fitted model are those
        of numpy, so that it loads on any machine.

    sparse_output : bool, default=True
        Whether `transform` returns a sparse array, or else a dense one, which
        ``set_output(transform="pandas")`` needs.

    stream_horizon : float, default=None
        Sample weight after which a stream has forgotten most of what it has counted, for data
        that change with time: at least 1. With None, nothing is forgotten. It has no effect on
        `fit`, and on streams that do not begin with `partial_fit`.

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
        The largest sparsity level that was trained, at most the number of experts. `top_k`
        cannot be set above it, unless all experts are kept: further levels are equal then.

    router_coef_ : csr_array of shape (n_features, n_experts)
        Router weights, the transpose of W1. Only existing connections are stored.

    router_intercept_ : ndarray of shape (n_experts,)
        b1.

    expert_coef_ : csr_array of shape (n_experts, n_classes)
        Outputs of the experts, the transpose of W.

    intercept_ : ndarray of shape (n_classes,)
        b2.

    temperatures_ : ndarray of shape (`top_k_`,) or None
        What the logits are divided by at K = 1, 2, ..., so that the probabilities are
        calibrated at every K of one fit; one at the K of the fit. None for multilabel targets
        and for the smallest data.

    prior_logits_ : ndarray of shape (n_classes,) or None
        Logits of a sample without any feature that is connected to an expert: logarithms of
        the shares of the classes, those of training samples without features counted more. None
        for dense X, where a zero is a value like others.

    expert_load_ : ndarray of shape (n_experts,) of int
        Number of training samples that keep each expert at K = `top_k_` (for `partial_fit`:
        of the samples of all calls, each counted before it is learnt). Experts that none keeps
        have no router weights after `fit`, unless ``warm_start=True``.

    n_iter_ : int
        Number of epochs that ran.

    loss_curve_ : list of float
        Mean cross-entropy of each epoch over the sparsity levels it drew; of dense X, that of
        the gate weights of the experts of a class. Of a stream, the mean squared hinge loss of
        each call, summed over the experts, before its samples are learnt: at most the last
        10,000.

    validation_scores_ : list of float
        Accuracy (multilabel: subset accuracy) on the validation set after each epoch. Only
        defined with a validation set.

    best_validation_score_ : float
        The largest of them. Only defined with a validation set.

    alpha_ : float
        Strength of the L2 penalty that was used: `alpha`, or what "auto" chose.

    t_ : float
        Sum of the sample weights that the model was trained on.

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
        "alpha": [Interval(Real, 0, 1e12, closed="neither"), StrOptions({"auto"})],
        "max_iter": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "learning_rate_init": [Interval(Real, 0, 1e6, closed="neither")],
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
        "sparse_output": ["boolean"],
        "stream_horizon": [Interval(Real, 1, None, closed="left"), None],
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
    ) -> None:
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
        self.sparse_output = sparse_output
        self.stream_horizon = stream_horizon

    @typed(_fit_context(prefer_skip_nested_validation=True))
    def fit(
        self, X: SamplesLike, y: SamplesLike, sample_weight: ArrayLike | None = None,
        X_val: SamplesLike | None = None, y_val: SamplesLike | None = None,
    ) -> Self:  # fmt: skip
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
        further = self.warm_start and hasattr(self, "classes_")
        # The start and the epochs; the data decide on the number of epochs of "auto".
        n_steps = None if self.max_iter == "auto" else 1 + int(self.max_iter)
        with fit_task(self, n_steps, X, y, sample_weight) as task:
            samples = validation.check_samples(self, X, y, sample_weight, reset=not further)
            random_state = check_random_state(self.random_state)
            held_out = None
            if X_val is not None or y_val is not None:
                held_out = validation.check_validation_set(self, X_val, y_val, samples)
            elif self.early_stopping and samples.X.shape[0] > SMALL_SAMPLE:
                samples, held_out = samples.split(self.validation_fraction, random_state)
            data, known = self._start_training(samples, further=further)
            options = resolve_options(self, data, samples, further=further)
            engine = get_engine(self.engine, self.device)
            describe = partial(self._describe, samples=samples, options=options)
            monitor = Monitor(
                partial(task.begin_step, describe=describe),
                None
                if held_out is None
                else partial(
                    measure_accuracy,
                    held_out=held_out,
                    top_k=self.top_k,
                    engine=engine,
                    n_threads=options.n_threads,
                ),
                partial(report_epoch, options.max_iter) if self.verbose else None,
            )
            recipes = (DENSE, DENSE_FURTHER) if options.dense else (TEXT, FURTHER)
            draft = train(recipes[further], data, options, engine, random_state, monitor, **known)
            earlier = self.t_ if further else 0.0
            self._record(draft, describe(draft.model))
            self.t_ = data.exposure.total + earlier
            if held_out is not None:
                self.validation_scores_ = list(draft.validation_scores)
                self.best_validation_score_ = max(draft.validation_scores)
        return self

    @typed(_fit_context(prefer_skip_nested_validation=True))
    def partial_fit(
        self, X: SamplesLike, y: SamplesLike, classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:  # fmt: skip
        """Learn from the next samples of a stream.

        Each sample is visited once, in its order, and what is learnt does not depend on how the
        samples are cut into calls. A call takes time in proportion to the nonzeros of X. Some
        samples are held out: by them, naive Bayes, the calibration and b2 are chosen.

        A model that began with `fit`, or that has not one expert per class, visits the samples of
        each call three times, and a call takes time in proportion to the size of the model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Their labels.
        classes : array-like of shape (n_classes,), default=None
            All classes that can occur, needed in the first call. A later call may name further
            classes beside all of those so far: they are added. Labels that are not among the
            classes are refused. For multilabel targets, ``arange(n_labels)``; may be left out.
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
                "class_weight='balanced' is not possible in partial_fit: a batch does not show "
                "the balance of the stream. Pass a dict of weights instead."
            )
        with unchanged_on_error(self):
            first_call = "n_experts_" not in vars(self)
            places = None if first_call else streams.widen_classes(self, classes)
            if first_call and classes is None:
                targets = y if sparse.issparse(y) else np.asarray(y)
                _, found, is_multilabel = validation.check_targets(targets)
                classes = found if is_multilabel else None
            _check_partial_fit_first_call(self, classes)
            samples = validation.check_samples(
                self, X, y, sample_weight, reset=first_call, classes=self.classes_
            )
            if not first_call:
                self._check_same_classes(samples)
            if streams.is_stream(self, samples, begins=first_call):
                streams.learn_stream(self, samples, places, MAX_LOSSES)
                return self
            if places is not None:
                streams.widen_model(self, places)
            self._fit_further(samples, first_call)
        return self

    def _fit_further(self, samples, first_call):
        """Train a model that is no stream on the next samples."""
        data, known = self._start_training(samples, further=not first_call)
        if not first_call:
            known |= {
                "earlier": streams.earlier_exposure(self),
                "loss_curve": tuple(self.loss_curve_),
                "expert_load": self.expert_load_,
            }
        options = resolve_options(self, data, samples, further=not first_call, in_stream=True)
        engine = get_engine(self.engine, self.device)
        random_state = check_random_state(self.random_state)
        recipe = DENSE_FURTHER if options.dense else STREAM
        draft = train(recipe, data, options, engine, random_state, **known)
        n_forgotten = 0 if first_call else self.n_iter_ - len(self.loss_curve_)
        self._record(draft, self._describe(draft.model, samples, options))
        self.n_iter_ += n_forgotten
        self._exposure = tuple(draft.exposure)
        self.t_ = draft.exposure.total

    def predict(self, X: SamplesLike) -> Array:
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
        X, predictor, top_k = self._check_prediction(X)
        if self._multilabel:
            return (predictor.logits(X, top_k) > 0).astype(np.int64)
        return self.classes_[predictor.best_class(X, top_k)]

    def predict_proba(self, X: SamplesLike) -> FloatArray:
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
        X, predictor, top_k = self._check_prediction(X)
        if self._multilabel:
            return sigmoid(predictor.logits(X, top_k))
        return predictor.logits(X, top_k, as_probabilities=True)

    def predict_proba_path(self, X: SamplesLike, top_ks: ArrayLike) -> FloatArray:
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
        X, predictor, _ = self._check_prediction(X)
        largest = None if self.top_k_ == self.n_experts_ else self.top_k_
        wanted = np.minimum(validation.check_levels(top_ks, largest), self.n_experts_)
        levels, places = np.unique(wanted, return_inverse=True)
        path = predictor.logits_path(X, levels)
        path = sigmoid(path) if self._multilabel else softmax(path)
        return path if np.array_equal(wanted, levels) else path[places]

    def predict_log_proba(self, X: SamplesLike) -> FloatArray:
        """Predict logarithms of probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
        """
        X, predictor, top_k = self._check_prediction(X)
        logits = predictor.logits(X, top_k)
        if self._multilabel:
            return np.log(sigmoid(logits))
        return log_softmax(logits, axis=1)

    def decision_function(self, X: SamplesLike) -> FloatArray:
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
        X, predictor, top_k = self._check_prediction(X)
        logits = predictor.logits(X, top_k)
        if len(self.classes_) == 2 and not self._multilabel:
            return logits[:, 1] - logits[:, 0]
        return logits

    def transform(self, X: SamplesLike) -> sparse.csr_array | Any:
        """Compute the sparse codes ``h_sparse``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        codes : csr_array or ndarray of shape (n_samples, n_experts)
            Gate weights of the kept experts, at most `top_k` a row. Rows add up to one, or
            are empty if no expert has a positive score. Sparse if `sparse_output` is true.
        """
        X, predictor, top_k = self._check_prediction(X)
        codes = predictor.codes(X, top_k)
        return codes if self.sparse_output else codes.toarray()

    def model_size(self) -> Bunch:
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
        model = self._model
        per_feature = model.router.nnz / model.router.shape[0]
        outputs = model.outputs.nnz / model.outputs.shape[0]
        return Bunch(
            n_weights=sum(len(array) for array in model.values()),
            n_bytes=packed_bytes(model, getattr(self, "storage_dtype_", None)),
            weights_per_feature=per_feature,
            weight_density=per_feature / self.n_experts_,
            multiply_adds_per_nonzero=per_feature,
            multiply_adds_per_sample=self._checked_top_k() * outputs,
        )

    @typed(
        validate_params(
            {
                "dtype": [StrOptions({"float16", "int8"}), None],
                "density": [Interval(Real, 0, 1, closed="right"), None],
            },
            prefer_skip_nested_validation=True,
        )
    )
    def compress(
        self, dtype: Literal["float16", "int8"] | None = "float16", *,
        density: float | None = None, X: SamplesLike | None = None,
    ) -> Self:  # fmt: skip
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
            Fitted copy. Its `compression_` is what changed: a Bunch of `n_bytes_before`,
            `n_bytes` and `largest_weight_change`, and with X of `changed_predictions` (share
            of the samples, or of all labels for multilabel targets) and
            `largest_probability_change`.

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        check_is_fitted(self)
        model = self._model
        if density is not None:
            scale = np.ones(self.n_features_in_, model.router.dtype)
            if X is not None:
                samples = validation.check_features(self, X)
                scale = np.sqrt(with_values(samples, samples.data**2).mean(axis=0))
            model = prune(model, scale, density)
        router = model.router
        if dtype is not None:
            router = round_values(router, dtype)
        compressed = copy(self)
        vars(compressed).pop("_stream", None)  # which would learn on without the compression
        compressed.router_coef_ = router
        compressed.storage_dtype_ = dtype
        compressed.compression_ = Bunch(**measure_change(self, compressed, X))
        return compressed

    def __getstate__(self):
        """State for pickle and the like: compact arrays, stamped with the version."""
        from . import __version__

        return pack_state(streams.pack(super().__getstate__()), __version__)

    def __setstate__(self, state):
        """Restore the state; warns if another version of skparse saved it."""
        from . import __version__

        name = type(self).__name__
        super().__setstate__(unpack_state(state, __version__, name, streams.unpack))
        if "compression_" in vars(self):
            self.compression_ = Bunch(**self.compression_)

    def __sklearn_tags__(self):
        """Describe the estimator to scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        return tags

    def __getattr__(self, name):
        """Build the router weights of a stream where they are asked for."""
        if name == "router_coef_" and streams.continues_stream(self):
            return streams.build_router(self)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def _n_features_out(self):
        return self.n_experts_

    @property
    def _model(self):
        extras = (vars(self).get(name) for name in ("temperatures_", "prior_logits_"))
        return SparseExpertModel(
            self.router_coef_, self.router_intercept_, self.expert_coef_, self.intercept_, *extras
        )

    def _check_prediction(self, X):
        """Validate X; returns (X, predictor, K)."""
        if "n_experts_" not in vars(self):  # a fitted estimator saves the time of the call
            check_is_fitted(self)
        X = validation.check_features(self, X)
        engine = get_engine(self.engine, self.device)
        if "_stream" in vars(self) and "router_coef_" not in vars(self):
            X, model = streams.select_features(self, X)
            checked = None
        else:
            model, checked = self._model, vars(self).get(CHECKED_KEY)
        # Arrays that a user has replaced could make a kernel leave their memory.
        if checked is None or any(a is not b for a, b in zip(model, checked, strict=True)):
            model.check(X.shape[1], len(self.classes_))
            vars(self)[CHECKED_KEY] = list(model)
        if self.n_experts_ == 2:
            model = densify_two_experts(X, model)
        return X, Predictor(model, engine, effective_n_jobs(self.n_jobs)), self._checked_top_k()

    def _checked_top_k(self):
        """Return the current K, at most the number of experts; raises if it was not trained."""
        # Where all experts can be kept, further levels are equal.
        largest = np.inf if self.top_k_ == self.n_experts_ else self.top_k_
        if not (isinstance(self.top_k, Integral) and 1 <= self.top_k <= largest):
            raise ValueError(
                f"top_k={self.top_k!r} is not a sparsity level that was trained: it has to be an "
                f"integer in [1, {self.top_k_}]; fit again to raise it."
            )
        return min(int(self.top_k), self.n_experts_)

    def _start_training(self, samples, *, further):
        """Prepare the samples and what is known before training; returns (data, dict)."""
        X, weight, n_classes = samples.X, samples.sample_weight, len(samples.classes)
        if not further:
            class_experts = sparse.eye_array(n_classes, format="csr")
            if self.n_experts != "auto" and self.n_experts < n_classes:
                class_experts = share_experts(self.n_experts, n_classes)
            known = {
                "alpha": ALPHAS[0] if self.alpha == "auto" else self.alpha,
                "scaling": default_scaling(n_classes, samples.multilabel),
            }
        else:
            self._check_same_classes(samples)
            dtype = self.router_coef_.dtype
            X, weight = X.astype(dtype, copy=False), weight.astype(dtype, copy=False)
            # Experts that classes do not share have one output, for their class.
            class_experts = self.expert_coef_.T.tocsr().astype(bool).astype(np.float64)
            if self.n_experts_ < n_classes:
                class_experts = share_experts(self.n_experts_, n_classes)
            # A model is trained further with the scaling it was calibrated to.
            known = {
                "columns": Columns(None, *self._columns) if hasattr(self, "_columns") else None,
                "alpha": self.alpha_ if self.alpha == "auto" else self.alpha,
                "scaling": ScoreScaling(*self._score_scaling),
                "model": self._model,
                "temperatures": self.temperatures_,
                "prior_logits": self.prior_logits_,
            }
        binary = (
            not samples.multilabel
            and class_experts.shape == (2, 2)
            and self.weight_density == "auto"
        )
        return build_training_data(X, samples.labels, weight, class_experts, binary=binary), known

    def _check_same_classes(self, samples):
        if samples.multilabel != self._multilabel or not np.array_equal(
            samples.classes, self.classes_
        ):
            raise ValueError(
                "A fitted model can only learn more about the classes it has: it was fitted "
                f"with classes {validation.shorten(self.classes_)}, y has "
                f"{validation.shorten(samples.classes)}."
            )

    def _describe(self, model, samples, options):
        """Return the fitted attributes with which this estimator predicts as the model does."""
        return {
            "router_coef_": model.router,
            "router_intercept_": model.router_intercept,
            "expert_coef_": model.outputs,
            "intercept_": model.intercept,
            "temperatures_": model.temperatures,
            "prior_logits_": model.prior_logits,
            "n_experts_": len(model.router_intercept),
            "top_k_": min(options.largest_top_k, len(model.router_intercept)),
            "classes_": samples.classes,
            "_multilabel": samples.multilabel,
        }

    def _record(self, draft, attributes):
        """Turn what was trained into fitted attributes; those of earlier fits do not stay."""
        for name in _OF_SOME_FITS:
            vars(self).pop(name, None)
        vars(self).update(attributes)
        vars(self)[CHECKED_KEY] = list(self._model)
        self._score_scaling = [float(value) for value in draft.scaling]
        if draft.columns is not None:
            self._columns = draft.columns.offset, draft.columns.factor
        self.alpha_ = float(draft.alpha)
        self.n_iter_ = len(draft.loss_curve)
        self.loss_curve_ = list(draft.loss_curve[-MAX_LOSSES:])
        self.expert_load_ = draft.expert_load
