"""Choosing the sparsity level K: one fit per fold scores every K."""

from functools import wraps
from time import perf_counter

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
    clone,
)
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    _raise_for_params,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.metaestimators import available_if
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_method_params, check_is_fitted

from . import _inputs as inputs
from ._classifier import SparseExpertClassifier
from ._fit_task import CallbackSupportMixin, fit_task
from ._level_choice import choose_level, compare_levels, pool_hits, run_fold, tabulate

__all__ = ["SparseExpertClassifierCV"]


def _of_best_estimator(name):
    """Make a method that calls the one of `best_estimator_`, with its documentation."""

    @wraps(getattr(SparseExpertClassifier, name))
    def method(self, *args, **kwargs):
        check_is_fitted(self)
        return getattr(self.best_estimator_, name)(*args, **kwargs)

    return available_if(_check_refit)(method)


def _check_refit(search):
    if not search.refit:
        raise AttributeError(
            f"This {type(search).__name__} has refit={search.refit!r}: predictions need a model "
            "that is fitted to all samples, after the choice of top_k."
        )
    return True


class SparseExpertClassifierCV(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClassifierMixin,
    BaseEstimator,
):
    """Sparse expert classifier that chooses its sparsity level K by cross-validation.

    One fit of :class:`~skparse.SparseExpertClassifier` trains all sparsity levels up to its
    `top_k`. So one fit per fold, with ``top_k = max(top_ks)``, scores every level, and a search
    over any number of them costs `cv` fits and one more to all samples.

    Read more in the guide to choosing K.

    Parameters
    ----------
    top_ks : array-like of int, default=(1, 2, 4, 8, 16, 32)
        Sparsity levels to try.

    cv : int, cross-validation generator or iterable, default=5
        How the samples are split, as in :class:`~sklearn.model_selection.GridSearchCV`.

    scoring : str, callable or None, default=None
        A scorer as in :class:`~sklearn.model_selection.GridSearchCV`. ``None`` is the accuracy
        (for multilabel targets, of the whole set of labels).

    refit : bool, default=True
        Whether to fit a classifier to all samples after the choice. Without it there is nothing
        to predict with.

    selection : {"one_standard_error", "best"}, default="one_standard_error"
        "one_standard_error" takes the smallest level whose mean loss against the best level is
        at most one standard error of that loss. The loss is paired: for the accuracy it is the
        difference on each held-out sample, for any other scorer that on each fold. "best" takes
        the level of the best mean score.

    n_jobs : int, default=None
        Number of folds to run at the same time, each with one thread; the last fit and
        predictions use as many threads. ``None`` means 1 unless in a
        :func:`joblib.parallel_config` context; ``-1`` means all processors.

    verbose : int, default=0
        Whether to print a line for every fold; from 2 on also every epoch.

    n_experts, weight_density, alpha, max_iter, batch_size, learning_rate_init, tol, \
n_iter_no_change, early_stopping, validation_fraction, class_weight, random_state, engine, device
        As in :class:`~skparse.SparseExpertClassifier`.

    Attributes
    ----------
    top_k_ : int
        The chosen sparsity level.

    top_ks_ : ndarray of shape (n_top_ks,)
        The levels that were tried, in ascending order.

    scores_ : ndarray of shape (n_splits, n_top_ks)
        Score of every level on every held-out part.

    best_score_ : float
        Mean score of the chosen level.

    best_index_ : int
        Its place in `top_ks_` and `cv_results_`.

    best_params_ : dict
        ``{"top_k": top_k_}``.

    cv_results_ : dict of ndarrays
        As in :class:`~sklearn.model_selection.GridSearchCV`, a row per level. The fit time is
        that of the one fit that all levels share. Moreover `mean_paired_loss` and
        `std_error_paired_loss` (what the choice is made from), `mean_microseconds_per_sample`
        (of scoring) and `mean_n_bytes` (of the model).

    best_estimator_ : SparseExpertClassifier
        Fitted to all samples with ``top_k = max(top_ks)``, as it was in the folds, then set to
        the chosen level; it can be set to the others too. Only defined with ``refit=True``.

    refit_time_ : float
        Seconds of that fit. Only defined with ``refit=True``.

    n_splits_ : int
        Number of folds.

    n_iter_ : int
        Number of epochs of the last fit. Only defined with ``refit=True``.

    classes_ : ndarray of shape (n_classes,)
        The class labels; ``arange(n_labels)`` for multilabel targets.

    n_features_in_ : int
        Number of features seen during `fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, only defined if X has feature names that are all strings.

    See Also
    --------
    SparseExpertClassifier : The classifier with a given `top_k`.
    sklearn.model_selection.GridSearchCV : For several parameters; fits anew for every `top_k`.
    skparse.plotting.SparsityPathDisplay : Picture of `cv_results_`.

    Examples
    --------
    >>> from skparse.datasets import make_topic_documents
    >>> from skparse.model_selection import SparseExpertClassifierCV
    >>> X, y = make_topic_documents(300, 200, 8, n_classes=4, random_state=0, return_X_y=True)
    >>> search = SparseExpertClassifierCV(top_ks=(1, 2, 4), cv=3, random_state=0).fit(X, y)
    >>> search.scores_.shape
    (3, 3)
    >>> search.top_k_ in (1, 2, 4)
    True
    >>> search.predict(X[:2]).shape
    (2,)
    """

    _parameter_constraints: dict = {
        **SparseExpertClassifier._parameter_constraints,
        "top_ks": ["array-like"],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "refit": ["boolean"],
        "selection": [StrOptions({"one_standard_error", "best"})],
    }
    for _name in ("top_k", "warm_start"):
        _parameter_constraints.pop(_name)
    del _name

    def __init__(
        self,
        top_ks=(1, 2, 4, 8, 16, 32),
        *,
        cv=5,
        scoring=None,
        refit=True,
        selection="one_standard_error",
        n_jobs=None,
        verbose=0,
        n_experts="auto",
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
        random_state=None,
        engine="auto",
        device="cpu",
    ):
        self.top_ks = top_ks
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.selection = selection
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.n_experts = n_experts
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
        self.random_state = random_state
        self.engine = engine
        self.device = device

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None, **params):
        """Score every sparsity level by cross-validation, choose one, fit to all samples.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels, or a binary indicator matrix for multilabel targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the samples, in the fits and in the scores. In the choice
            of the level a weight of two counts as two samples.
        X_val, y_val : as in `SparseExpertClassifier.fit`, default=None
            Validation samples, passed to every fit.
        **params : dict of array-like of shape (n_samples,)
            `groups` for the splitter; with metadata routing enabled, whatever splitter and
            scorer request.

        Returns
        -------
        self : SparseExpertClassifierCV

        Raises
        ------
        ValueError
            If the input is invalid, or a score is not a number.
        """
        levels = np.unique(inputs.check_levels(self.top_ks))
        classifier = self._build_classifier(int(levels[-1]))
        X_rows, y_rows, weight, classes = inputs.check_rows(classifier, X, y, sample_weight)
        routed = self._route(weight, params)
        routed.fit = {"X_val": X_val, "y_val": y_val}
        cv = check_cv(self.cv, y_rows, classifier=True)
        folds = list(cv.split(X_rows, y_rows, **routed.split))
        n_fits = len(folds) + self.refit
        with fit_task(self, n_fits, X, y, sample_weight, in_parallel=True) as task:
            samples = X_rows, y_rows, weight
            results = self._run_folds(classifier, samples, folds, levels, routed, task)
            start = perf_counter()
            if self.refit:
                classifier.set_params(n_jobs=self.n_jobs)
                refit = task.subtask("refit", place=len(folds))
                refit.fit(classifier, X, y, sample_weight, **routed.fit)
            refit_time = perf_counter() - start
            self._forget()
            self._choose(levels, folds, results, weight)
            self.classes_, self.n_features_in_ = classes, classifier.n_features_in_
            if hasattr(classifier, "feature_names_in_"):
                self.feature_names_in_ = classifier.feature_names_in_
            if self.refit:
                self.best_estimator_ = classifier.set_params(top_k=self.top_k_)
                self.refit_time_, self.n_iter_ = refit_time, classifier.n_iter_
        return self

    predict = _of_best_estimator("predict")
    predict_proba = _of_best_estimator("predict_proba")
    predict_log_proba = _of_best_estimator("predict_log_proba")
    predict_proba_path = _of_best_estimator("predict_proba_path")
    decision_function = _of_best_estimator("decision_function")
    transform = _of_best_estimator("transform")

    def score(self, X, y, sample_weight=None):
        """Score the predictions, with `scoring`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        score : float
        """
        scorer = self._scorer()
        if scorer is None:
            return super().score(X, y, sample_weight)
        weight = {} if sample_weight is None else {"sample_weight": sample_weight}
        return scorer(self, X, y, **weight)

    def get_metadata_routing(self):
        """Describe what fit passes on to splitter and scorer; see scikit-learn's user guide.

        Returns
        -------
        routing : MetadataRouter
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        router.add(
            splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split")
        )
        if self._scorer() is not None:
            router.add(
                scorer=self._scorer(),
                method_mapping=MethodMapping().add(caller="fit", callee="score"),
            )
        return router

    def __sklearn_tags__(self):
        """Describe the estimator to scikit-learn: like the classifier."""
        return SparseExpertClassifier().__sklearn_tags__()

    @property
    def _n_features_out(self):
        return self.best_estimator_.n_experts_

    def _build_classifier(self, top_k):
        """Unfitted classifier with the shared parameters and one thread."""
        mine = self.get_params(deep=False)
        shared = set(mine) & set(SparseExpertClassifier().get_params())
        own = {"top_k": top_k, "n_jobs": 1, "verbose": max(0, self.verbose - 1)}
        # A clone, so that a RandomState is copied: every fold starts from the same one.
        return clone(SparseExpertClassifier(**{**{n: mine[n] for n in shared}, **own}))

    def _scorer(self):
        """Scorer, or None for the accuracy, which is compared sample by sample."""
        return None if self.scoring in (None, "accuracy") else get_scorer(self.scoring)

    def _route(self, sample_weight, params):
        """Metadata for the splitter (`split`) and for the scorer (`score`)."""
        weight = {} if sample_weight is None else {"sample_weight": sample_weight}
        if not _routing_enabled():
            groups = params.pop("groups", None)
            _raise_for_params(params, self, "fit")
            return Bunch(split={"groups": groups}, score=weight)
        routed = process_routing(self, "fit", **weight, **params)
        score = weight if self._scorer() is None else routed.scorer.score
        return Bunch(split=routed.splitter.split, score=score)

    def _run_folds(self, classifier, samples, folds, levels, params, task):
        # Kernels release the interpreter lock. On the CPU, PyTorch starts threads of its own in
        # every Python thread; joblib limits them in processes only.
        own_threads = self.engine == "torch" and self.device == "cpu"
        scorer, run = self._scorer(), delayed(run_fold)
        results = Parallel(n_jobs=self.n_jobs, prefer="processes" if own_threads else "threads")(
            run(
                clone(classifier), samples, fold, levels, scorer, params.fit,
                _check_method_params(samples[0], params.score, indices=fold[1]),
                task.subtask("fold", place=i - 1),
                f"Fold {i}/{len(folds)}" if self.verbose else "",
            )
            for i, fold in enumerate(folds, start=1)
        )  # fmt: skip
        for i, fold in enumerate(results, start=1):
            if np.isnan(fold.scores).any():
                raise ValueError(f"scoring={self.scoring!r} is not a number on fold {i}.")
        return results

    def _forget(self):
        """Remove what another fit may have set and this one may not."""
        for name in ("best_estimator_", "refit_time_", "n_iter_", "feature_names_in_"):
            vars(self).pop(name, None)

    def _choose(self, levels, folds, results, sample_weight):
        scores = np.array([result.scores for result in results])
        means = scores.mean(axis=0)
        if results[0].hits is None:
            loss, standard_error = compare_levels(scores, means.argmax())
        else:
            hits, weight = pool_hits(folds, results, sample_weight)
            loss, standard_error = compare_levels(hits, means.argmax(), weight)
        self.best_index_ = choose_level(loss, standard_error, means.argmax(), self.selection)
        self.top_ks_, self.scores_, self.n_splits_ = levels, scores, len(results)
        self.top_k_ = int(levels[self.best_index_])
        self.best_params_ = {"top_k": self.top_k_}
        self.best_score_ = float(means[self.best_index_])
        self.cv_results_ = {
            **tabulate(levels, results),
            "mean_paired_loss": loss,
            "std_error_paired_loss": standard_error,
        }
