"""Folds that score every sparsity level of one fit, and the rule that chooses a level."""

from time import perf_counter
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata


class Fold(NamedTuple):
    """What one fold tells about every level."""

    scores: np.ndarray  # (n_levels,)
    hits: np.ndarray | None  # (n_tested, n_levels), which samples are right; accuracy only
    fit_time: float
    score_times: np.ndarray  # (n_levels,)
    n_bytes: int  # of the model
    n_tested: int


def run_fold(classifier, samples, fold, levels, scorer, fit_params, score_params, task, label=""):
    """Fit on one part of the samples and score every level on the other.

    Parameters
    ----------
    classifier : SparseExpertClassifier, its `top_k` the largest level
    samples : tuple (X, y, sample_weight)
    fold : tuple (train, test) of indices
    levels : ndarray of int
    scorer : callable, or None for the accuracy
    fit_params, score_params : dict
    task : `skparse._fit_task.FitTask`, the fold's part of the search
    label : str
        Starts a line that is printed; empty for none.

    Returns
    -------
    Fold
    """
    X, y, sample_weight = samples
    train, test = fold
    X_test, y_test = X[test], y[test]
    start = perf_counter()
    weight = None if sample_weight is None else sample_weight[train]
    task.fit(classifier, X[train], y[train], weight, **fit_params)
    fit_time = perf_counter() - start
    classifier.predict(X_test[:1])  # loads the code, which is no level's time
    scores, hits, times = [], [], []
    for level in levels:
        classifier.set_params(top_k=int(level))
        start = perf_counter()
        if scorer is None:
            right = classifier.predict(X_test) == y_test
            hits.append(right.all(axis=1) if right.ndim == 2 else right)
            scores.append(np.average(hits[-1], weights=score_params.get("sample_weight")))
        else:
            scores.append(scorer(classifier, X_test, y_test, **score_params))
        times.append(perf_counter() - start)
    if label:
        best = int(np.argmax(scores))
        print(f"{label}: fit {fit_time:.2f} s, best top_k={levels[best]}, {scores[best]:.4f}")
    return Fold(
        np.array(scores, np.float64),
        np.transpose(hits) if hits else None,
        fit_time,
        np.array(times),
        classifier.model_size().n_bytes,
        len(y_test),
    )


def pool_hits(folds, results, sample_weight):
    """Share of the folds in which each held-out sample is right at each level.

    A sample that several folds hold out stays one observation.

    Returns
    -------
    hits : ndarray (n_observations, n_levels)
    weights : ndarray (n_observations,) or None
    """
    tested, places = np.unique(np.concatenate([test for _, test in folds]), return_inverse=True)
    hits = np.zeros((len(tested), results[0].hits.shape[1]))
    np.add.at(hits, places, np.concatenate([result.hits for result in results]))
    weights = None if sample_weight is None else sample_weight[tested].astype(np.float64)
    return hits / np.bincount(places)[:, None], weights


def compare_levels(scores, best, weights=None):
    """Compare every sparsity level with the best one, sample by sample or fold by fold.

    Parameters
    ----------
    scores : ndarray (n_observations, n_levels)
        Scores of the same samples (or folds) at every level, larger is better.
    best : int
        Place of the level to compare with.
    weights : ndarray (n_observations,), default=None
        How often each observation counts.

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


def choose_level(loss, standard_error, best, selection):
    """Place of the chosen level among levels in ascending order.

    "best" is the best one; "one_standard_error" the smallest whose loss against it is at most
    one standard error.
    """
    return int(best) if selection == "best" else int(np.argmax(loss <= standard_error))


def tabulate(levels, results):
    """Build `cv_results_` as `GridSearchCV` does, with time per sample and size beside it."""
    scores = np.array([fold.scores for fold in results])
    times = np.array([fold.score_times for fold in results])
    fit_times = np.array([fold.fit_time for fold in results])
    n_tested = np.array([[fold.n_tested] for fold in results])
    same = np.ones(len(levels))
    return {
        "mean_fit_time": fit_times.mean() * same,
        "std_fit_time": fit_times.std() * same,
        "mean_score_time": times.mean(axis=0),
        "std_score_time": times.std(axis=0),
        "param_top_k": np.ma.MaskedArray(levels, mask=np.zeros(len(levels), bool)),
        "params": [{"top_k": int(level)} for level in levels],
        **{f"split{i}_test_score": row for i, row in enumerate(scores)},
        "mean_test_score": scores.mean(axis=0),
        "std_test_score": scores.std(axis=0),
        "rank_test_score": rankdata(-scores.mean(axis=0), method="min").astype(np.int32),
        "mean_microseconds_per_sample": 1e6 * (times / n_tested).mean(axis=0),
        "mean_n_bytes": np.mean([fold.n_bytes for fold in results]) * same,
    }
