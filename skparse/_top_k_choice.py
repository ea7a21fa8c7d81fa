"""Folds that score every sparsity level of one fit, the rule that chooses, `cv_results_`."""

from numbers import Real
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.stats import rankdata
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_method_params

from ._pipeline import find_last_step, transform_for_last_step


class SearchData(NamedTuple):
    """Samples and metadata of a search, of which a fold takes its parts."""

    X: Any  # whatever the estimator takes, with rows that can be selected
    y: np.ndarray
    sample_weight: Any  # as given to the search, for callbacks; None without
    fit_params: dict  # for the fit of the estimator
    score_params: dict  # for the scorer; of the accuracy, at most sample_weight


class FoldResult(NamedTuple):
    """Scores, times and size of the model of one fold."""

    scores: np.ndarray  # (n_levels,)
    hits: np.ndarray | None  # (n_held_out, n_levels), which samples are right; accuracy only
    log_losses: np.ndarray | None  # (n_held_out, n_levels); without a scorer only
    fit_time: float
    score_times: np.ndarray  # (n_levels,)
    n_bytes: int  # of the model
    n_held_out: int


def run_fold(estimator, data, fold, levels, scorer, by_log_loss, task, label=""):
    """Fit on one part of the samples and score every level on the held-out part.

    Parameters
    ----------
    estimator : SparseExpertClassifier or a pipeline that ends in one
        Unfitted, its `top_k` the largest level.
    data : SearchData
    fold : tuple (train, test) of ndarrays of int
    levels : ndarray of int
    scorer : callable, or None for the accuracy
    by_log_loss : bool
        Whether to measure the log-loss as well.
    task : `skparse._fit_task.FitTask`, the task of this fold
    label : str
        Start of the line to print; empty to print nothing.

    Returns
    -------
    FoldResult
    """
    train, test = fold
    X_train, X_test = _safe_indexing(data.X, train), _safe_indexing(data.X, test)
    fit_params = select_params(data.X, data.fit_params, train)
    weight = select_params(data.X, {"sample_weight": data.sample_weight}, train)
    start = perf_counter()
    task.fit(estimator, X_train, data.y[train], params=fit_params, **weight)
    fit_time = perf_counter() - start
    score_params = select_params(data.X, data.score_params, test)
    y_test = data.y[test].toarray() if sparse.issparse(data.y) else data.y[test]
    if scorer is None or isinstance(scorer, _BaseScorer):
        X_test, scored = transform_for_last_step(estimator, X_test), find_last_step(estimator)[0]
    else:
        scored = estimator
    scores, hits, times = score_levels(scored, X_test, y_test, levels, scorer, score_params)
    log_losses = measure_log_losses(scored, X_test, y_test, levels) if by_log_loss else None
    if label:
        best = int(np.argmax(scores))
        print(f"{label}: fit {fit_time:.2f} s, best top_k={levels[best]}, {scores[best]:.4f}")
    n_bytes = find_last_step(estimator)[0].model_size().n_bytes
    return FoldResult(scores, hits, log_losses, fit_time, times, n_bytes, len(test))


def measure_log_losses(classifier, X, y, levels):
    """Log-loss of every sample, of all its labels, at every level: (n_samples, n_levels)."""
    path = classifier.predict_proba_path(X, levels)
    path = np.maximum(path, np.finfo(path.dtype).tiny).astype(np.float64)
    if y.ndim == 2:
        return -np.log(np.where(y > 0, path, 1 - path)).sum(axis=2).T
    known = np.isin(y, classifier.classes_)
    codes = np.searchsorted(classifier.classes_, np.where(known, y, classifier.classes_[0]))
    own = path[:, np.arange(len(y)), codes]
    # A class that no training sample of the fold has is equally unlikely at every level.
    return np.where(known, -np.log(own), 0.0).T


def select_params(X, params, rows):
    """Select rows of the metadata that has one value per sample.

    Validation samples are passed on whole, even if there are as many of them as samples.
    """
    whole = {n: v for n, v in params.items() if n.rpartition("__")[2] in ("X_val", "y_val")}
    per_sample = {name: value for name, value in params.items() if name not in whole}
    return {**_check_method_params(X, per_sample, indices=rows), **whole}


def score_levels(estimator, X, y, levels, scorer, params):
    """Score a fitted estimator at every level.

    The accuracy and the scorers of scikit-learn only need predictions. They get the classifier
    and the transformed samples, so the transformers have run once. Any other callable may use the
    whole pipeline or the original samples. It gets both, and the transformers run each time that
    it predicts.

    Returns
    -------
    scores : ndarray (n_levels,)
    hits : ndarray (n_samples, n_levels) of bool, or None without the accuracy
    times : ndarray (n_levels,)
        Seconds that each level took.
    """
    classifier, _ = find_last_step(estimator)
    if scorer is None or isinstance(scorer, _BaseScorer):
        # The first call loads code, and checks what scipy then stores as flags of X. No level is
        # charged for this time.
        _ = classifier.predict(X) if scorer is None else scorer(classifier, X, y, **params)
    scores, hits, times = [], [], []
    for level in levels:
        classifier.set_params(top_k=int(level))
        start = perf_counter()
        if scorer is None:
            right = classifier.predict(X) == y
            hits.append(right.all(axis=1) if right.ndim == 2 else right)
            scores.append(average_hits(hits[-1], params.get("sample_weight")))
        else:
            scores.append(check_score(scorer(estimator, X, y, **params), scorer))
        times.append(perf_counter() - start)
    return np.array(scores), np.transpose(hits) if hits else None, np.array(times)


def average_hits(hits, weights):
    """Accuracy: the weighted mean of the hits; raises ValueError if all weights are zero."""
    if weights is not None and not weights.any():
        raise ValueError(
            "sample_weight is zero for all held-out samples of a fold: each fold needs a "
            "held-out sample of positive weight."
        )
    return float(np.average(hits, weights=weights))


def check_score(score, scorer):
    """Return a score as a float; raises ValueError if it is something else than one number."""
    score = score.item() if getattr(score, "size", 0) == 1 else score
    if not isinstance(score, Real):
        raise ValueError(
            f"scoring={scorer!r} has to return a number, got {score!r} ({type(score).__name__})."
        )
    return float(score)


def pool_samples(folds, values, sample_weight):
    """Average what was measured of each held-out sample over the folds that hold it out.

    A sample that several folds hold out is one observation.

    Parameters
    ----------
    folds : list of (train, test)
    values : list of ndarray (n_held_out, n_levels), one per fold
    sample_weight : ndarray (n_samples,) or None

    Returns
    -------
    means : ndarray (n_observations, n_levels)
    weights : ndarray (n_observations,) or None
    """
    samples, places = np.unique(np.concatenate([test for _, test in folds]), return_inverse=True)
    sums = np.zeros((len(samples), values[0].shape[1]))
    np.add.at(sums, places, np.concatenate(values))
    weights = None if sample_weight is None else sample_weight[samples]
    return sums / np.bincount(places)[:, None], weights


def compare_levels(scores, best, weights=None):
    """Compare every sparsity level with the best one, sample by sample or fold by fold.

    Parameters
    ----------
    scores : ndarray (n_observations, n_levels)
        Scores of the same samples (or folds) at every level, larger is better.
    best : int
        Index of the level to compare with.
    weights : ndarray (n_observations,), default=None
        Number of times that each observation counts.

    Returns
    -------
    loss : ndarray (n_levels,)
        Mean over the observations of the score of the best level minus that of each level.
    standard_error : ndarray (n_levels,)
        Standard error of that mean; zero for the best level and for a single observation.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    total = weights.sum()
    differences = scores[:, [best]] - scores
    loss = np.einsum("n,nk->k", weights, differences) / total
    variance = np.einsum("n,nk->k", weights, (differences - loss) ** 2) / total
    return loss, np.sqrt(variance / (total - 1 if total > 1 else 1))


def compare_log_losses(loss, standard_error, log_losses, weights=None):
    """Compare the log-loss of every level with the least one of the accurate levels.

    These are the levels whose ``loss`` is at most one standard error.

    Parameters
    ----------
    loss, standard_error : ndarray (n_levels,)
        Of the accuracy, from `compare_levels`.
    log_losses : ndarray (n_observations, n_levels)
    weights : ndarray (n_observations,), default=None

    Returns
    -------
    more, error : ndarray (n_levels,)
        Mean over the observations, and its standard error.
    """
    means = np.average(log_losses, axis=0, weights=weights)
    least = int(np.argmin(np.where(loss <= standard_error, means, np.inf)))
    return compare_levels(-log_losses, least, weights)


def choose_level(loss, standard_error, best, selection, of_log_loss=None):
    """Choose a level; returns its index among the levels in ascending order.

    "best" is the best one. "one_standard_error" is the smallest one whose loss against the best
    one is at most one standard error. With ``of_log_loss``, the pair that `compare_log_losses`
    returns, this holds for the log-loss, too.
    """
    if selection == "best":
        return int(best)
    is_good = loss <= standard_error
    if of_log_loss is not None:
        is_good = is_good & (of_log_loss[0] <= of_log_loss[1])
    return int(np.argmax(is_good))


def tabulate(levels, results, name):
    """Build `cv_results_` as `GridSearchCV` does, with time per sample and size beside it.

    Parameters
    ----------
    levels : ndarray (n_levels,)
    results : list of FoldResult
    name : str
        Name of the parameter `top_k`, as the estimator of the search sets it.
    """
    scores = np.array([fold.scores for fold in results])
    times = np.array([fold.score_times for fold in results])
    fit_times = np.array([fold.fit_time for fold in results])
    n_held_out = np.array([[fold.n_held_out] for fold in results])
    same = np.ones(len(levels))
    return {
        "mean_fit_time": fit_times.mean() * same,
        "std_fit_time": fit_times.std() * same,
        "mean_score_time": times.mean(axis=0),
        "std_score_time": times.std(axis=0),
        f"param_{name}": np.ma.MaskedArray(levels, mask=np.zeros(len(levels), bool)),
        "params": [{name: int(level)} for level in levels],
        **{f"split{i}_test_score": row for i, row in enumerate(scores)},
        "mean_test_score": scores.mean(axis=0),
        "std_test_score": scores.std(axis=0),
        "rank_test_score": rankdata(-scores.mean(axis=0), method="min").astype(np.int32),
        "mean_microseconds_per_sample": 1e6 * (times / n_held_out).mean(axis=0),
        "mean_n_bytes": np.mean([fold.n_bytes for fold in results]) * same,
    }
