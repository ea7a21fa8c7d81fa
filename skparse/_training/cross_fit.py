"""Stages that mix several linear margins, with weights that cross-fitting chooses.

No penalty is right for all data, and a choice by few held-out samples follows chance. So margins
are trained with several penalties, and those of naive Bayes are one more candidate. Each sample
gets the margins of a fold that it took no part in, and these decide about the mixture. Margins on
one pattern of connections average exactly: the mixture is one model, no larger than the others.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .._csr import with_values
from .._threads import Threads
from .completion import complete_model
from .connections import RELEVANCE_POWER, connect
from .linear import LINEAR_EPOCHS, start_linear
from .linear_run import run_epochs
from .mixture import OutOfFold, choose_mixture, with_empty_samples
from .scores import model_from_margins

# Chosen by cross-validation on training parts; docs/design/ has the record.
# Penalties, and powers of the relevance of the features. Those of one power are trained together.
CANDIDATES = {RELEVANCE_POWER: (0.3, 3.0, 27.0), 1.0: (1.0, 9.0)}
MAX_CLASSES = 15  # epochs on the loss of the model train more classes better
FOLDS = 5
SMALLEST_FACTOR = 0.25  # of a large row: else its margins alone would decide
FOLD_EPOCHS = 6
FOLD_SAMPLES = 24_000  # visited in all folds together; one fold is trained at least
MAX_MARGINS = 2**20  # numbers, of which the mixture is chosen


class FoldMargins(NamedTuple):
    """Margins of the samples that a fold holds out."""

    rows: np.ndarray  # (n_rows,) of int
    margins: np.ndarray  # (n_candidates, n_rows, n_classes)
    empty: np.ndarray  # (n_candidates, n_classes), of a sample without features
    prior_strength: float  # that the fold has chosen for naive Bayes


def cross_fit(problem, draft):
    """Choose a mixture of penalties and naive Bayes, and its calibration, by cross-fitting."""
    data, options = problem.data, problem.options
    fold_of = draw_folds(problem)
    n_trained = int(np.clip(FOLD_SAMPLES // len(fold_of), 1, FOLDS))
    seeds = problem.random_state.randint(2**31 - 1, size=n_trained)
    alphas = np.concatenate([alphas for alphas in candidates(options).values()])
    size = (len(alphas) + 1) * data.labels.shape[0] * data.labels.shape[1]
    stride = -(-size * n_trained // (FOLDS * MAX_MARGINS))
    folds = problem.threads.map(
        lambda fold, seed: train_fold(problem, draft, fold_of == fold, seed, stride),
        range(n_trained), seeds,
    )  # fmt: skip
    rows = np.concatenate([fold.rows for fold in folds])
    weight = data.sample_weight[rows].astype(np.float64)
    margins = np.concatenate([fold.margins for fold in folds], axis=1)
    samples = OutOfFold(margins, data.labels.indices[rows], weight / weight.mean())
    shares = data.labels.T @ data.sample_weight.astype(np.float64) / data.exposure.total
    empty = np.mean([fold.empty for fold in folds], axis=0)
    samples = with_empty_samples(samples, empty, shares)
    top_k = min(options.top_k, data.labels.shape[1])
    mixture = choose_mixture(samples, draft.scaling, top_k)
    strength = float(np.mean([fold.prior_strength for fold in folds]))
    alpha = float(np.exp(np.average(np.log(alphas), weights=mixture.weights[1:] + 1e-12)))
    held_out = np.zeros(len(fold_of), bool)
    return replace(
        draft, mixture=mixture, alpha=alpha, prior_strength=strength, held_out=held_out,
        temperatures=mixture.temperatures,
    )  # fmt: skip


def is_for_mixing(problem, draft):
    """Whether a fit is cross-fitted: few classes of one expert each, and no epochs asked for."""
    options = problem.options
    n_classes, n_experts = draft.data.class_experts.shape
    return (
        options.automatic_epochs
        and not options.multilabel
        and not options.full_batch
        and n_experts == n_classes
        and 1 < n_classes <= MAX_CLASSES
    )


def is_mixed(problem, draft):
    """Whether the model is a mixture."""
    return draft.mixture is not None


def candidates(options):
    """Return the penalties of each power of the relevance that are mixed."""
    if options.alpha is None:
        return CANDIDATES
    return {power: (options.alpha,) for power in CANDIDATES}


def draw_folds(problem):
    """Draw a fold for each sample, (n_samples,) of int; each class is spread over all folds."""
    labels = problem.data.labels.indices
    order = problem.random_state.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold_of = np.empty(len(labels), np.int64)
    fold_of[order] = np.arange(len(labels)) % FOLDS
    return fold_of


def train_fold(problem, draft, held_out, seed, stride):
    """Train all candidates on the samples that are not held out; returns `FoldMargins`.

    Of the held-out ones, every ``stride``-th is measured, with X as the user gave it.
    """
    random_state = np.random.RandomState(seed)
    problem = replace(problem, threads=Threads(1), random_state=random_state)
    rows = np.flatnonzero(held_out)[::stride]
    margins, empty = [], []
    draft = replace(draft, held_out=held_out)
    for own, runs in train_candidates(problem, draft, FOLD_EPOCHS):
        data = own.data
        X = data.X[rows]
        if data.row_factors is not None:
            factors = np.maximum(data.row_factors[rows], SMALLEST_FACTOR).astype(X.dtype)
            X = with_values(X, X.data / np.repeat(factors, np.diff(X.indptr)))
        for _, weights, bias in runs:
            constant = bias.astype(np.float64) * data.geometry.bias_feature
            scores = (X @ weights).toarray() + constant
            if data.binary:
                scores, constant = (np.concatenate([-a, a], axis=-1) for a in (scores, constant))
            margins.append(scores)
            empty.append(constant)
    return FoldMargins(rows, np.array(margins), np.array(empty), own.prior_strength)


def train_candidates(problem, draft, n_epochs, weights=None):
    """Train the candidates of each power of the relevance.

    Yields
    ------
    own : Draft
        With the data of that power.
    runs : list of (weight, margins, bias)
        Those of naive Bayes come first. Candidates of weight zero are left out.
    """
    options, place = problem.options, 1
    n_candidates = 1 + sum(map(len, candidates(options).values()))
    weights = np.ones(n_candidates) if weights is None else weights
    alone = replace(problem, threads=Threads(1))
    for power, alphas in candidates(options).items():
        own_weights = weights[place : place + len(alphas)]
        used = [(a, w) for a, w in zip(alphas, own_weights, strict=True) if w > 0]
        if used or place == 1:
            own = start_linear(problem, connect(problem, replace(draft, relevance_power=power)))
            trained = problem.threads.map(
                lambda alpha, data, run, orders: run_epochs(alone, data, run, orders, alpha),
                [alpha for alpha, _ in used],
                *([part] * len(used) for part in (own.data, own.run, own.orders[0][:n_epochs])),
            )
            runs = [(w, *run.average()) for (_, w), run in zip(used, trained, strict=True)]
            if place == 1:
                no_bias = np.zeros(own.run.margins.shape[1], own.data.X.dtype)
                runs.insert(0, (weights[0], own.run.margins, no_bias))
            yield own, runs
        place += len(alphas)


def mix_linear(problem, draft):
    """Train the candidates of the mixture on all samples, and average them to one model."""
    mixture, first, values, bias = draft.mixture, None, 0.0, 0.0
    for own, runs in train_candidates(problem, draft, LINEAR_EPOCHS, mixture.weights):
        first = own if first is None else first
        # The columns are multiplied by the relevance, of which each power has its own.
        # That of full columns without information is zero in both.
        known = first.data.relevance > 0
        ratio = np.where(known, own.data.relevance, 0) / np.where(known, first.data.relevance, 1)
        per_entry = np.repeat(ratio, np.diff(own.run.margins.indptr))
        for weight, margins, own_bias in runs:
            values = values + weight * per_entry * margins.data
            bias = bias + weight * own_bias * own.data.geometry.bias_feature
    dtype, data = first.run.margins.dtype, first.data
    added = (mixture.bias[1:] - mixture.bias[:1]) / 2 if data.binary else mixture.bias
    bias = ((bias + added) / data.geometry.bias_feature).astype(dtype)
    margins = with_values(first.run.margins, values.astype(dtype))
    scaling = draft.scaling._replace(
        shift=mixture.level,
        score_factor=mixture.score_factor,
        output_factor=mixture.output_factor,
    )
    first = replace(first, scaling=scaling)
    model = model_from_margins(first, margins, bias)
    intercept = (mixture.intercept / mixture.output_factor).astype(dtype)
    return replace(first, model=model._replace(intercept=intercept))


def complete_mixture(problem, draft):
    """Complete a mixed model. For the monitor, this is its only epoch.

    Epochs on the loss of the model would undo its calibration.
    """
    monitor, scores = problem.monitor, ()
    end_step = monitor.begin_step("epoch")
    model = complete_model(problem, draft, draft.model)
    loss = draft.mixture.loss
    if monitor.validate is not None:
        scores = (monitor.validate(model),)
    if monitor.report is not None:
        monitor.report(0, loss, scores[0] if scores else None)
    end_step(lambda: model)
    return replace(
        draft, model=model, loss_curve=(*draft.loss_curve, loss), validation_scores=scores
    )
