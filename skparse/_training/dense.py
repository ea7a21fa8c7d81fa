"""Stages for dense X: several experts per class, each started at a cluster of samples.

The experts are trained as a mixture: the loss of a sample is minus the logarithm of the gate
weight of all experts of its class. It has a gradient also where the outputs would saturate.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import sparse

from .._csr import with_smallest_index_dtype
from .._predictor import Predictor
from .columns import (
    build_dense_model,
    centre_router,
    measure_columns,
    prune_router,
    router_of_model,
    standardise,
)
from .completion import complete_model
from .dense_run import DenseExperts, run_dense_epochs, start_experts
from .held_out import OUTPUT_FACTORS, SCORE_FACTORS, measure_held_out
from .scores import ScoreScaling, multiply_scores
from .temperatures import choose_temperatures, level_logits

# Chosen by cross-validation on training parts; docs/design/ has the record.
MAX_EXPERTS_PER_CLASS = 16
SAMPLES_PER_EXPERT = 8  # of a class, at least
MAX_EXPERTS = 256  # of all classes, while every class has one
# Penalties and powers of the relevance that are compared. The first pair is kept unless another
# gains so much held-out loss, in samples of mean weight.
CANDIDATES = (0.2, 1.0), (0.2, 2.0), (0.05, 1.0), (0.0125, 1.0)
CANDIDATE_ADVANTAGE = 2.0

# They are compared on several held-out parts of few samples, one of many.
HELD_OUT_SHARE = 4  # a part is one sample in so many
MAX_PART = 2000
PART_SAMPLES = 2800
# Epochs that measure the relevance, and those that compare candidates: so many visits, in a range.
SEARCH_VISITS = 18_000
SEARCH_EPOCHS = 10, 40
SEARCH_SAMPLES = 5000  # at most
SEARCH_EXPERTS = 8  # of a class, at most
LOWEST_RELEVANCE = 0.01  # before the power


class Candidate(NamedTuple):
    """A strength of the penalty, and a power of the relevance of the columns."""

    alpha: float
    power: float


def begin_dense(problem, draft):
    """Standardise the columns, and share out the experts among the classes."""
    data = problem.data
    numbers = experts_per_class(problem)
    n_classes = len(numbers)
    scaling = ScoreScaling(1.0, 0.0, 4.0 + float(np.log(max(n_classes, 2))), 0.0, 1.0, 1.0)
    columns = standardise(data.X, *measure_columns(data))
    alpha = CANDIDATES[0][0] if problem.options.alpha is None else problem.options.alpha
    return replace(draft, scaling=scaling, columns=columns, alpha=alpha, experts_per_class=numbers)


def experts_per_class(problem):
    """Choose how many experts each class has, (n_classes,) of int64.

    A given number of experts is shared out so that small classes get fewer.
    """
    labels, wanted = problem.data.labels, problem.options.n_experts
    sizes = np.bincount(labels.indices, minlength=labels.shape[1])
    room = np.maximum(1, sizes // SAMPLES_PER_EXPERT)
    if wanted is None:
        most = min(MAX_EXPERTS_PER_CLASS, max(1, MAX_EXPERTS // len(sizes)))
        return np.minimum(room, most)
    numbers = np.ones(len(sizes), np.int64)
    while numbers.sum() < wanted:
        # One more for each class that has room, the largest first; for all, if none has.
        open_classes = np.flatnonzero(numbers < room)
        if not len(open_classes):
            open_classes = np.arange(len(sizes))
        open_classes = open_classes[np.argsort(-sizes[open_classes], kind="stable")]
        numbers[open_classes[: wanted - numbers.sum()]] += 1
    return numbers


def choose_candidate(problem, draft):
    """Choose the penalty, the power of the relevance, and the calibration, on held-out samples."""
    candidates = [Candidate(*pair) for pair in CANDIDATES]
    if problem.options.alpha is not None:
        powers = dict.fromkeys(candidate.power for candidate in candidates)
        candidates = [Candidate(draft.alpha, power) for power in powers]
    parts = draw_parts(problem)
    seeds = problem.random_state.randint(2**31 - 1, size=len(parts))
    relevance = problem.threads.map(
        lambda part, seed: measure_dense_relevance(problem, draft, ~part, seed), parts, seeds
    )

    def attempt(place, candidate):
        scaled = draft.columns.scaled(relevance[place] ** candidate.power)
        own = replace(draft, columns=scaled, held_out=parts[place], alpha=candidate.alpha)
        experts = _train_experts(problem, own, ~parts[place], seeds[place])
        model = _model_of(problem, own, experts)
        return measure_held_out(problem, own, model).by_factors, model

    places = [place for _ in candidates for place in range(len(parts))]
    tried = [candidate for candidate in candidates for _ in parts]
    losses, models = zip(*problem.threads.map(attempt, places, tried), strict=True)
    losses = np.array(losses)
    losses = losses.reshape(len(candidates), len(parts), *losses.shape[1:]).sum(axis=1)
    least = losses.min(axis=(1, 2))
    least[1:] += CANDIDATE_ADVANTAGE * problem.data.exposure.total / problem.data.X.shape[0]
    best = int(least.argmin())
    of_scores, of_outputs = np.unravel_index(losses[best].argmin(), losses[best].shape)
    scaling = draft.scaling._replace(
        score_factor=float(SCORE_FACTORS[of_scores]),
        output_factor=float(OUTPUT_FACTORS[of_outputs]),
    )
    models = models[best * len(parts) : (best + 1) * len(parts)]
    return replace(
        draft, alpha=candidates[best].alpha, scaling=scaling, power=candidates[best].power,
        temperatures=choose_part_temperatures(problem, scaling, parts, models),
    )  # fmt: skip


def choose_part_temperatures(problem, scaling, parts, models):
    """Choose the temperature of each level by models of samples that they took no part in."""
    data, codes = problem.data, []
    top_k = min(problem.options.top_k, *(len(model.router_intercept) for model in models))
    for part, model in zip(parts, models, strict=True):
        predictor, X = Predictor(model, problem.engine, problem.options.n_threads), data.X[part]
        codes.append(predictor.code_block(X, 0, X.shape[0], top_k).astype(np.float64))
    factors = {"of_scores": scaling.score_factor, "of_outputs": scaling.output_factor}

    def logits_at(level):
        pairs = zip(codes, models, strict=True)
        return np.concatenate([level_logits(*pair, level, **factors) for pair in pairs])

    rows = np.concatenate([np.flatnonzero(part) for part in parts])
    weight = data.sample_weight[rows].astype(np.float64)
    return choose_temperatures(logits_at, data.labels.indices[rows], weight, top_k)


def draw_parts(problem):
    """Draw held-out parts that share no sample, a list of (n_samples,) of bool.

    In each part is one of every so many rows in their order, so that sorted data are held out
    evenly.
    """
    n_samples = problem.data.X.shape[0]
    every = max(HELD_OUT_SHARE, -(-n_samples // MAX_PART))
    n_parts = int(np.clip(PART_SAMPLES // n_samples, 1, HELD_OUT_SHARE))
    blocks = -(-n_samples // every)
    ranks = problem.random_state.uniform(size=(blocks, every)).argsort(axis=1).ravel()
    return [ranks[:n_samples] == part for part in range(n_parts)]


def scale_by_relevance(problem, draft):
    """Multiply the columns by a power of their relevance.

    The clusters of the next start then ignore columns without information, and the penalty
    shrinks the weights of such columns the most.
    """
    everything = np.ones(problem.data.X.shape[0], bool)
    seed = problem.random_state.randint(2**31 - 1)
    relevance = measure_dense_relevance(problem, draft, everything, seed)
    return replace(draft, columns=draft.columns.scaled(relevance**draft.power))


def measure_dense_relevance(problem, draft, inside, seed):
    """Measure how much trained experts depend on each column, (n_features,), about one."""
    router = _train_experts(problem, draft, inside, seed).router
    spread = router.weights.std(axis=1, dtype=np.float64)
    size = np.sqrt((spread**2).mean())
    return np.maximum(spread / size, LOWEST_RELEVANCE) if size > 0 else np.ones(len(spread))


def start_dense(problem, draft):
    """Start the experts of the final model, with all samples."""
    rows = np.arange(problem.data.X.shape[0])
    experts = start_experts(problem, draft, rows, draft.experts_per_class)
    return replace(draft, experts=experts, model=_model_of(problem, draft, experts))


def resume_dense(problem, draft):
    """Continue with the experts of a fitted model, on new samples."""
    columns = standardise(problem.data.X, draft.columns.offset, draft.columns.factor)
    scaling = draft.scaling
    model = multiply_scores(draft.model, *(1 / factor for factor in scaling.factors))
    numbers = np.bincount(model.outputs.indices, minlength=model.outputs.shape[1])
    class_starts = np.concatenate([[0], np.cumsum(numbers)])
    experts = DenseExperts(class_starts, router_of_model(columns, model))
    return replace(draft, columns=columns, experts=experts, model=model)


def train_dense(problem, draft):
    """Train the experts by epochs of Adam; completes the model.

    With early stopping it is the model of the epoch with the best validation score.
    """
    options, monitor, experts = problem.options, problem.monitor, draft.experts.copy()
    losses, scores, best, best_value, n_waited = list(draft.loss_curve), [], None, -np.inf, 0
    rows = np.arange(problem.data.X.shape[0])
    epochs = run_dense_epochs(problem, draft, experts, rows, options.max_iter)

    def build():
        return complete_model(problem, draft, _model_of(problem, draft, experts))

    for epoch in range(options.max_iter):
        end_step = monitor.begin_step("epoch")
        losses.append(next(epochs))
        score, value = None, -losses[-1]
        if monitor.validate is not None:
            score = monitor.validate(build())
            scores.append(score)
            if options.early_stopping:
                value = score
                best = experts.copy() if value > best_value else best
        if monitor.report is not None:
            monitor.report(epoch, losses[-1], score)
        n_waited = 0 if value > best_value + options.tol else n_waited + 1
        best_value = max(best_value, value)
        # While the steps are long, the loss changes by chance.
        is_late = options.may_stop and 2 * (epoch + 1) > options.max_iter
        if end_step(build) or (is_late and n_waited >= options.n_iter_no_change):
            break
    if best is not None:
        experts = best
    return replace(
        draft, model=build(), experts=experts, loss_curve=tuple(losses),
        validation_scores=tuple(scores),
    )  # fmt: skip


def _train_experts(problem, draft, inside, seed):
    """Start experts on some rows and train them, for about `SEARCH_VISITS` visits."""
    problem = replace(problem, random_state=np.random.RandomState(seed))
    rows = np.flatnonzero(inside)
    rows = rows[:: -(-len(rows) // SEARCH_SAMPLES)]
    n_epochs = int(np.clip(SEARCH_VISITS // len(rows), *SEARCH_EPOCHS))
    numbers = np.minimum(draft.experts_per_class, SEARCH_EXPERTS)
    experts = start_experts(problem, draft, rows, numbers)
    for _ in run_dense_epochs(problem, draft, experts, rows, n_epochs):
        pass
    return experts


def _model_of(problem, draft, experts):
    """Build the model of the experts for X as the user gave it."""
    if draft.model is not None and draft.experts is not None:
        outputs, intercept = draft.model.outputs, draft.model.intercept
    else:
        outputs = outputs_of(experts, draft.scaling.gain, draft.data.X.dtype)
        intercept = None
    router, density = centre_router(experts.router), problem.options.weight_density
    if density is not None and density < 1:
        router = prune_router(draft.columns, router, density)
    model = build_dense_model(draft.columns, router, outputs, draft.scaling)
    return model if intercept is None else model._replace(intercept=intercept)


def outputs_of(experts, gain, dtype):
    """Connect every expert to its class, a CSR array (n_experts, n_classes)."""
    numbers = np.diff(experts.class_starts)
    classes = np.repeat(np.arange(len(numbers)), numbers)
    parts = np.full(len(classes), gain, dtype), (np.arange(len(classes)), classes)
    return with_smallest_index_dtype(sparse.csr_array(parts, shape=(len(classes), len(numbers))))
