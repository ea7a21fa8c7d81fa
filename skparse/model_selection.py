"""Choosing the sparsity level K: one fit per fold scores every K."""

from collections.abc import Callable, Iterable
from inspect import signature
from numbers import Integral
from time import perf_counter
from typing import Any, Literal, Self
from warnings import warn

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    _fit_context,
    clone,
)
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import BaseCrossValidator, check_cv
from sklearn.utils import Bunch, get_tags, indexable
from sklearn.utils._param_validation import HasMethods, StrOptions
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    _raise_for_params,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.metaestimators import available_if
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from . import _validation as validation
from ._documentation import DocumentedMixin
from ._fit_task import CallbackSupportMixin, fit_task
from ._pipeline import find_last_step, transform_for_last_step
from ._top_k_choice import (
    SearchData,
    choose_level,
    compare_levels,
    compare_log_losses,
    pool_samples,
    run_fold,
    tabulate,
)
from ._typing import Array, FloatArray, SamplesLike, typed

__all__ = ["TopKSearchCV"]


def _best_estimator_has(name):
    """Check that there is a refit and that the estimator has a method, for `available_if`."""

    def check(search):
        if not search.refit:
            raise AttributeError(
                f"This {type(search).__name__} has refit={search.refit!r}: {name} needs a model "
                "that is fitted to all samples, after the choice of top_k."
            )
        estimator = getattr(search, "best_estimator_", search.estimator)
        getattr(estimator, name)  # raises AttributeError
        return True

    return check


class TopKSearchCV(
    CallbackSupportMixin,
    DocumentedMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClassifierMixin,
    MetaEstimatorMixin,
    BaseEstimator,
):
    """Choose the sparsity level K of a classifier by cross-validation.

    One fit of :class:`~skparse.SparseExpertClassifier` trains all sparsity levels up to its
    `top_k`. One fit per fold, with ``top_k = max(top_ks)``, therefore scores every level. A
    search over any number of levels costs one fit per fold and one more to all samples.

    Read more in the :doc:`guide to choosing K </choosing_k>`.

    Parameters
    ----------
    estimator : SparseExpertClassifier or Pipeline
        The classifier, or a :class:`~sklearn.pipeline.Pipeline` that ends in one. The
        transformers of a pipeline are fitted in each fold. The search fits clones; its own
        `top_k` is not used.

    top_ks : array-like of int, default=(1, 2, 4, 8, 16, 32)
        Sparsity levels to try.

    cv : int, cross-validation generator, iterable or None, default=None
        How the samples are split, as in :class:`~sklearn.model_selection.GridSearchCV`.
        ``None`` means 5 stratified folds.

    scoring : str, callable or None, default=None
        A scorer as in :class:`~sklearn.model_selection.GridSearchCV`. ``None`` is the accuracy
        (for multilabel targets, of the whole set of labels), and the log-loss takes part in
        the choice of the level; "accuracy" is the accuracy alone. A callable that is not a scorer
        of scikit-learn gets the whole pipeline and the original samples, so the transformers
        run again for each level.

    selection : {"one_standard_error", "best"}, default="one_standard_error"
        "one_standard_error" takes the smallest level whose mean loss against the best level is
        at most one standard error of that loss. The loss is paired: for the accuracy it is the
        difference on each held-out sample, for any other scorer the difference on each fold.
        With ``scoring=None`` the log-loss, too, has to be at most one standard error above the
        least one of these levels: probabilities of K = 1 have one value per expert only.
        Levels above the number of experts are equal. "best" takes the level of the best mean
        score.

    refit : bool, default=True
        Whether to fit a clone to all samples after the choice. Without it the search cannot
        predict.

    n_jobs : int, default=None
        Number of folds to run at the same time, in threads. If it is more than one, the
        classifiers of the folds use one thread each; the last fit and predictions use the
        `n_jobs` of the estimator. ``None`` means 1 unless in a :class:`joblib.parallel_config`
        context; ``-1`` means all processors.

    verbose : int, default=0
        Whether to print a line for every fold.

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
        Its index in `top_ks_` and `cv_results_`.

    best_params_ : dict
        `top_k_` under the name by which the estimator sets it: ``{"top_k": 4}``, or
        ``{"sparseexpertclassifier__top_k": 4}`` for a pipeline.

    cv_results_ : dict of ndarrays
        As in :class:`~sklearn.model_selection.GridSearchCV`, a row per level. The fit time is
        that of the one fit that all levels share. The score time does not include the
        transformers of a pipeline where they run once for all levels. Further columns are
        `mean_paired_loss` and `std_error_paired_loss`, with ``scoring=None`` also
        `mean_paired_log_loss` and `std_error_paired_log_loss` (what the choice is made from),
        `mean_microseconds_per_sample` (of scoring) and `mean_n_bytes` (of the classifier).

    best_estimator_ : SparseExpertClassifier or Pipeline
        Clone fitted to all samples with ``top_k = max(top_ks)``, as in the folds, then set to
        the chosen level; it can be set to the other levels too. Only defined with
        ``refit=True``.

    refit_time_ : float
        Seconds of that fit. Only defined with ``refit=True``.

    n_splits_ : int
        Number of folds.

    classes_ : ndarray of shape (n_classes,)
        The class labels; ``arange(n_labels)`` for multilabel targets. Only defined with
        ``refit=True``.

    n_features_in_ : int
        Number of features seen during `fit`. Only defined if `best_estimator_` has it.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features. Only defined if `best_estimator_` has it.

    See Also
    --------
    skparse.SparseExpertClassifier : The classifier with a given `top_k`.
    sklearn.model_selection.GridSearchCV : For several parameters; fits anew for every `top_k`.
    skparse.plotting.SparsityPathDisplay : Plots `cv_results_`.

    Examples
    --------
    >>> from skparse import SparseExpertClassifier
    >>> from skparse.datasets import make_topic_documents
    >>> from skparse.model_selection import TopKSearchCV
    >>> X, y = make_topic_documents(300, 200, 8, n_classes=4, random_state=0, return_X_y=True)
    >>> search = TopKSearchCV(SparseExpertClassifier(random_state=0), top_ks=(1, 2, 4), cv=3)
    >>> search.fit(X, y).scores_.shape
    (3, 3)
    >>> search.top_k_ in (1, 2, 4)
    True
    >>> search.predict(X[:2]).shape
    (2,)

    A pipeline takes texts, and its vectorizer is fitted in each fold:

    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> texts = ["red apple", "green apple", "blue sky", "grey sky"] * 3
    >>> labels = ["fruit", "fruit", "weather", "weather"] * 3
    >>> pipeline = make_pipeline(TfidfVectorizer(), SparseExpertClassifier(random_state=0))
    >>> search = TopKSearchCV(pipeline, top_ks=(1, 2), cv=2).fit(texts, labels)
    >>> search.best_params_
    {'sparseexpertclassifier__top_k': 1}
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit"])],  # `_check_estimator` names what is allowed
        "top_ks": ["array-like"],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "selection": [StrOptions({"one_standard_error", "best"})],
        "refit": ["boolean"],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        top_ks: ArrayLike = (1, 2, 4, 8, 16, 32),
        cv: int | BaseCrossValidator | Iterable[tuple[ArrayLike, ArrayLike]] | None = None,
        scoring: str | Callable[..., float] | None = None,
        selection: Literal["one_standard_error", "best"] = "one_standard_error",
        refit: bool = True,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.top_ks = top_ks
        self.cv = cv
        self.scoring = scoring
        self.selection = selection
        self.refit = refit
        self.n_jobs = n_jobs
        self.verbose = verbose

    # The estimator validates its own parameters.
    @typed(_fit_context(prefer_skip_nested_validation=False))
    def fit(self, X: SamplesLike, y: SamplesLike, **params: Any) -> Self:
        """Score every sparsity level by cross-validation, choose one, fit to all samples.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of shape (n_samples, n_features) or (n_samples,)
            Training samples, as the estimator takes them: texts for a pipeline that begins
            with a vectorizer.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels, or a binary indicator matrix for multilabel targets.
        **params : dict
            Metadata. What has one value per sample is split as X is. `groups` is passed to the
            splitter. `sample_weight` is passed to the classifier, also to that of a pipeline,
            and to the scorer; in the choice of the level a weight of two counts as two samples.
            Anything else is passed to the fit of the estimator: `X_val` and `y_val` of
            :meth:`skparse.SparseExpertClassifier.fit`, which are not split, or `step__name` for
            a step of a pipeline. With metadata routing enabled, estimator, scorer and splitter
            get what they request; ``scoring=None`` takes the request of the classifier's `score`.

        Returns
        -------
        self : TopKSearchCV

        Raises
        ------
        TypeError
            If the estimator is neither a SparseExpertClassifier nor a pipeline that ends in one.
        ValueError
            If the input is invalid, or a score is not a number. The search is left as it was.
        """
        name = f"{self._check_estimator()}top_k"
        levels = np.unique(validation.check_levels(self.top_ks))
        params = {key: value for key, value in params.items() if value is not None}
        weight = params.get("sample_weight")
        X, y = indexable(X, y)
        y_checked = validation.check_labels(self, y)
        routed = self._route(params, y_checked)
        folds = self._split(X, y_checked, routed.split)
        estimator = clone(self.estimator).set_params(**{name: int(levels[-1])})
        data = SearchData(X, y_checked, weight, routed.fit, routed.score)
        n_fits = len(folds) + self.refit
        with fit_task(self, n_fits, X, y, weight, in_parallel=True) as task:
            results = self._run_folds(estimator, data, folds, levels, task)
            start = perf_counter()
            if self.refit:
                refit = task.subtask("refit", place=len(folds))
                refit.fit(estimator, X, y_checked, params=routed.fit, sample_weight=weight)
            refit_time = perf_counter() - start
            self._forget_refit()
            self._choose(levels, folds, results, routed.score.get("sample_weight"), name)
            if self.refit:
                self.best_estimator_ = estimator.set_params(**self.best_params_)
                self.refit_time_ = refit_time
        return self

    @typed(available_if(_best_estimator_has("predict")))
    def predict(self, X: SamplesLike) -> Array:
        """Predict class labels with `best_estimator_`.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of length n_samples
            Samples, as the estimator takes them.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
        """
        check_is_fitted(self)
        return self.best_estimator_.predict(X)

    @typed(available_if(_best_estimator_has("predict_proba")))
    def predict_proba(self, X: SamplesLike) -> FloatArray:
        """Predict probabilities with `best_estimator_`.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of length n_samples
            Samples, as the estimator takes them.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
        """
        check_is_fitted(self)
        return self.best_estimator_.predict_proba(X)

    @typed(available_if(_best_estimator_has("predict_log_proba")))
    def predict_log_proba(self, X: SamplesLike) -> FloatArray:
        """Predict logarithms of probabilities with `best_estimator_`.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of length n_samples
            Samples, as the estimator takes them.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
        """
        check_is_fitted(self)
        return self.best_estimator_.predict_log_proba(X)

    @typed(available_if(_best_estimator_has("predict_proba")))
    def predict_proba_path(self, X: SamplesLike, top_ks: ArrayLike) -> FloatArray:
        """Predict probabilities at several sparsity levels in one pass.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of length n_samples
            Samples, as the estimator takes them.
        top_ks : array-like of int of shape (n_top_ks,)
            Sparsity levels K from 1 to the largest of `top_ks_`, in any order.

        Returns
        -------
        probabilities : ndarray of shape (n_top_ks, n_samples, n_classes)
            What `predict_proba` returns with `top_k` set to each level.

        Raises
        ------
        ValueError
            If a level is no integer in that range, or there is none.
        """
        check_is_fitted(self)
        classifier, _ = find_last_step(self.best_estimator_)
        X = transform_for_last_step(self.best_estimator_, X)
        return classifier.predict_proba_path(X, top_ks)

    @typed(available_if(_best_estimator_has("decision_function")))
    def decision_function(self, X: SamplesLike) -> FloatArray:
        """Compute the logits with `best_estimator_`.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of length n_samples
            Samples, as the estimator takes them.

        Returns
        -------
        logits : ndarray of shape (n_samples, n_classes) or (n_samples,)
            For two classes the logit of ``classes_[1]`` minus that of ``classes_[0]``.
        """
        check_is_fitted(self)
        return self.best_estimator_.decision_function(X)

    @typed(available_if(_best_estimator_has("transform")))
    def transform(self, X: SamplesLike) -> sparse.csr_array | Any:
        """Compute the gate weights of the kept experts with `best_estimator_`.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of length n_samples
            Samples, as the estimator takes them.

        Returns
        -------
        codes : csr_array of shape (n_samples, n_experts)
        """
        check_is_fitted(self)
        return self.best_estimator_.transform(X)

    @typed(available_if(_best_estimator_has("score")))
    def score(
        self,
        X: SamplesLike,
        y: SamplesLike,
        sample_weight: ArrayLike | None = None,
        **params: Any,
    ) -> float:
        """Score the predictions of `best_estimator_` with `scoring`.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of length n_samples
            Samples, as the estimator takes them.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.
        **params : dict
            With metadata routing enabled, further metadata that the scorer requests.

        Returns
        -------
        score : float
        """
        check_is_fitted(self)
        _raise_for_params(params, self, "score")
        if sample_weight is not None:
            params = {"sample_weight": sample_weight, **params}
        if _routing_enabled():
            params = process_routing(self, "score", **params).scorer.score
        return self._scorer()(self.best_estimator_, X, y, **params)

    def get_metadata_routing(self) -> MetadataRouter:
        """Describe what is passed to estimator, splitter and scorer; see scikit-learn's guide.

        Returns
        -------
        routing : MetadataRouter
        """
        to_fit = MethodMapping().add(caller="fit", callee="fit")
        to_split = MethodMapping().add(caller="fit", callee="split")
        to_score = MethodMapping().add(caller="fit", callee="score")
        to_score.add(caller="score", callee="score")
        router = MetadataRouter(owner=self).add(estimator=self.estimator, method_mapping=to_fit)
        router.add(splitter=self.cv, method_mapping=to_split)
        return router.add(scorer=self._scorer(), method_mapping=to_score)

    @property
    def classes_(self) -> Array:
        """Class labels of `best_estimator_`."""
        return self._of_best_estimator("classes_")

    @property
    def n_features_in_(self) -> int:
        """Number of features seen during `fit`, if `best_estimator_` has it."""
        return self._of_best_estimator("n_features_in_")

    @property
    def feature_names_in_(self) -> Array:
        """Names of the features seen during `fit`, if `best_estimator_` has them."""
        return self._of_best_estimator("feature_names_in_")

    def __sklearn_tags__(self):
        """Describe the search to scikit-learn: like the estimator."""
        tags = get_tags(self.estimator)
        tags.target_tags.required = True  # a pipeline does not set it
        return tags

    @property
    def _n_features_out(self):
        return find_last_step(self._of_best_estimator())[0].n_experts_

    def _of_best_estimator(self, name=None):
        """Return an attribute of `best_estimator_`, or `best_estimator_` itself."""
        if "best_estimator_" not in vars(self):
            raise AttributeError(
                f"{type(self).__name__} has no {name or 'features'}: it is not fitted, or was "
                "fitted with refit=False."
            )
        return getattr(self.best_estimator_, name) if name else self.best_estimator_

    def _check_estimator(self):
        """Check that the last step is a classifier with sparsity levels; returns its prefix."""
        classifier, prefix = find_last_step(self.estimator)
        needed = ("top_k", "predict_proba_path", "model_size")
        if not all(hasattr(classifier, name) for name in needed):
            raise TypeError(
                "estimator has to be a SparseExpertClassifier or a Pipeline that ends in one, got "
                f"{self.estimator!r}."
            )
        return prefix

    def _scorer(self):
        return check_scoring(self.estimator, scoring=self.scoring)

    def _route(self, params, y):
        """Metadata for the estimator (`fit`), the splitter (`split`) and the scorer (`score`).

        The weights of the accuracy come validated.
        """
        by_accuracy = self.scoring in (None, "accuracy")
        classifier, prefix = find_last_step(self.estimator)
        if _routing_enabled():
            routed = process_routing(self, "fit", **params)
            fit, split, score = routed.estimator.fit, routed.splitter.split, routed.scorer.score
            if self.scoring is None:
                score = _requested_weight(classifier, params)
        else:
            fit, split = dict(params), {"groups": params.get("groups")}
            fit.pop("groups", None)
            weight = fit.pop("sample_weight", None)
            score = {}
            if weight is not None:
                fit.setdefault(f"{prefix}sample_weight", weight)
                if by_accuracy or _accepts_weight(self._scorer(), self):
                    score["sample_weight"] = weight
        if by_accuracy and "sample_weight" in score:
            score = {"sample_weight": validation.check_weight(score["sample_weight"], y)}
        return Bunch(fit=fit, split=split, score=score)

    def _split(self, X, y, params):
        """Folds as pairs of index arrays."""
        cv = check_cv(self.cv, y, classifier=True)
        places = np.arange(y.shape[0])  # a fold may be given by masks
        folds = [(places[train], places[test]) for train, test in cv.split(X, y, **params)]
        if not folds:
            raise ValueError(f"cv={self.cv!r} gives no folds: at least one is needed.")
        return folds

    def _run_folds(self, estimator, data, folds, levels, task):
        classifier, prefix = find_last_step(estimator)
        in_parallel = min(effective_n_jobs(self.n_jobs), len(folds)) > 1
        one_thread = {f"{prefix}n_jobs": 1} if in_parallel else {}
        # Kernels release the interpreter lock. On the CPU, PyTorch starts threads of its own in
        # every Python thread; joblib limits them in processes only.
        own_threads = classifier.engine == "torch" and classifier.device == "cpu"
        scorer = None if self.scoring in (None, "accuracy") else self._scorer()
        results = Parallel(n_jobs=self.n_jobs, prefer="processes" if own_threads else "threads")(
            # A clone copies a RandomState: every fold starts from the same one.
            delayed(run_fold)(
                clone(estimator).set_params(**one_thread), data, fold, levels, scorer,
                self.scoring is None, task.subtask("fold", place=i - 1),
                f"Fold {i}/{len(folds)}" if self.verbose else "",
            )
            for i, fold in enumerate(folds, start=1)
        )  # fmt: skip
        for i, fold in enumerate(results, start=1):
            if np.isnan(fold.scores).any():
                raise ValueError(f"scoring={self.scoring!r} is not a number on fold {i}.")
        return results

    def _forget_refit(self):
        """Remove what an earlier fit may have set and this one may not."""
        for name in ("best_estimator_", "refit_time_"):
            vars(self).pop(name, None)

    def _choose(self, levels, folds, results, sample_weight, name):
        scores = np.array([result.scores for result in results])
        means = scores.mean(axis=0)
        weight = of_log_loss = None
        if results[0].hits is None:
            loss, standard_error = compare_levels(scores, means.argmax())
        else:
            hits, weight = pool_samples(folds, [fold.hits for fold in results], sample_weight)
            loss, standard_error = compare_levels(hits, means.argmax(), weight)
        if results[0].log_losses is not None:
            of_folds = [fold.log_losses for fold in results]
            log_losses, _ = pool_samples(folds, of_folds, sample_weight)
            of_log_loss = compare_log_losses(loss, standard_error, log_losses, weight)
        self.best_index_ = choose_level(
            loss, standard_error, means.argmax(), self.selection, of_log_loss
        )
        self.top_ks_, self.scores_, self.n_splits_ = levels, scores, len(results)
        self.top_k_ = int(levels[self.best_index_])
        self.best_params_ = {name: self.top_k_}
        self.best_score_ = float(means[self.best_index_])
        self.cv_results_ = {
            **tabulate(levels, results, name),
            "mean_paired_loss": loss,
            "std_error_paired_loss": standard_error,
        }
        if of_log_loss is not None:
            more, error = of_log_loss
            self.cv_results_ |= {"mean_paired_log_loss": more, "std_error_paired_log_loss": error}


def _requested_weight(classifier, params):
    """Sample weights for the accuracy, as the `score` of the classifier requests them."""
    request = classifier.get_metadata_routing().score.requests.get("sample_weight")
    name = request if isinstance(request, str) else "sample_weight"
    return {"sample_weight": params[name]} if request and name in params else {}


def _accepts_weight(scorer, search):
    """Return whether a scorer takes sample weights; warns if it does not."""
    if hasattr(scorer, "_accept_sample_weight"):
        accepts = scorer._accept_sample_weight()
    else:
        accepts = "sample_weight" in signature(scorer).parameters
    if not accepts:
        warn(
            f"scoring={search.scoring!r} does not take sample_weight: the fits use the weights, "
            "the scores do not.",
            stacklevel=4,
        )
    return accepts
