"""The stage that trains all sparsity levels at once, on the loss of the model itself."""

from dataclasses import replace

import numpy as np

from .._averages import move_towards
from .._csr import csr_arrays
from .._engines.arguments import NestedOptions, NestedRows, Pattern
from .completion import complete_model
from .problem import draw_order

# Outputs and b2 that are learnt move this much more slowly than the router (per unit of its step).
OUTPUT_RATE = 0.001
# From this many visits on an epoch is trained in two shards.
SHARD_ROWS = 4096


def train_nested(problem, draft):
    """Train epochs in which every mini-batch has a K of its own; completes the model.

    The model is the average of those after each epoch, with early stopping the best of these
    averages on the validation samples.
    """
    options, monitor = problem.options, problem.monitor
    current, mean, best = draft.model.copy(), draft.model.copy(), None
    losses, scores = list(draft.loss_curve), []
    best_value, n_waited = -np.inf, 0
    for epoch in range(options.max_iter):
        end_step = monitor.begin_step("epoch")
        current, loss = run_epoch(problem, draft, current)
        # Epoch t counts in proportion to t.
        move_towards(mean.values(), current.values(), 2 / (epoch + 2))
        losses.append(loss)
        score, value = None, -loss
        if monitor.validate is not None:
            score = monitor.validate(complete_model(problem, draft, mean))
            scores.append(score)
            if options.early_stopping:
                value = score
                best = mean.copy() if value > best_value else best
        if monitor.report is not None:
            monitor.report(epoch, loss, score)
        n_waited = 0 if value > best_value + options.tol else n_waited + 1
        best_value = max(best_value, value)
        asked_to_stop = end_step(lambda: complete_model(problem, draft, mean))
        if asked_to_stop or n_waited >= options.n_iter_no_change:
            break
    model = complete_model(problem, draft, mean if best is None else best)
    return replace(draft, model=model, loss_curve=tuple(losses), validation_scores=tuple(scores))


def run_epoch(problem, draft, model):
    """Train one epoch; returns (model, mean loss).

    Large data are divided into two shards, each of which trains a copy of the model on half of
    the rows; their average is the model after the epoch. The division depends on the data alone,
    so the result is the same for one thread and two.
    """
    data, options = draft.data, problem.options
    order = draw_order(problem, data)
    shards = np.array_split(order, 2) if len(order) >= SHARD_ROWS else [order]
    top_k = min(options.top_k, len(model.router_intercept))
    batch_top_ks = [draw_batch_top_k(problem, len(shard), top_k) for shard in shards]
    steps, shrinkage = step_lengths(data, options, draft.alpha, draft.scaling)
    steps *= len(shards)
    # If each expert has one class, b1 takes their place, and b2 is calibrated. If they moved, the
    # output of a class of most samples would grow, and with it the share of its predictions.
    n_classes, n_experts = data.class_experts.shape
    learns_outputs = options.multilabel or n_experts < n_classes
    nested_options = NestedOptions(
        batch_size=options.batch_size,
        bias_square=data.geometry.bias_feature**2,
        output_rate=OUTPUT_RATE * data.geometry.mean_square if learns_outputs else 0.0,
        shrinkage=min(0.5, shrinkage * len(shards)),
    )

    def train_shard(shard, batch_top_k):
        copy = model.copy()
        rows = NestedRows(shard, steps, Pattern(data.labels.indptr, data.labels.indices))
        scale, loss = problem.engine.nested_epoch(
            csr_arrays(data.X), rows, copy.arrays(), batch_top_k, nested_options,
            options.multilabel or None,
        )  # fmt: skip
        copy.router.data[:] *= copy.router.dtype.type(scale)
        return copy, loss

    trained, losses = zip(*problem.threads.map(train_shard, shards, batch_top_ks), strict=True)
    moved = trained[0]
    for k, other in enumerate(trained[1:], start=2):
        move_towards(moved.values(), other.values(), 1 / k)
    return moved, sum(losses) / len(order)


def draw_batch_top_k(problem, n_rows, top_k):
    """Draw how many experts each mini-batch keeps, (n_batches,) of int64: 2, 4, 8, ..., top_k.

    One kept expert has a constant gate and no router gradient; K = 1 is read from the
    ranking that the other levels train.
    """
    powers = [2**i for i in range(1, int(top_k).bit_length()) if 2**i < top_k]
    levels = np.array([*powers, max(2, top_k)])
    n_batches = -(-n_rows // problem.options.batch_size)
    return levels[problem.random_state.randint(len(levels), size=n_batches)]


def step_lengths(data, options, alpha, scaling):
    """Step of every sample, (n_samples,), and the shrinkage of the weights per update.

    Rows of one batch that share features move the same scores: the steps are divided by the
    crowding of the batch. A full batch depends on weights only, so that a sample of weight
    two moves the model as two samples do.
    """
    geometry, total_weight = data.geometry, data.exposure.total
    # The step is one of the margins, which the scores scale.
    rate = options.learning_rate * scaling.scale**2 / geometry.mean_square
    weight = data.sample_weight.astype(np.float64)
    bias_square = geometry.bias_feature**2
    norms = geometry.squared_norms + bias_square
    if options.full_batch:
        relative = weight / (total_weight * geometry.crowding)
        steps = rate * relative / (1.0 + rate * norms)
        updates = 1.0 / geometry.crowding
    else:
        crowding = 1.0 + (options.batch_size - 1) * geometry.crowding
        relative = weight * len(weight) / total_weight
        steps = rate * relative / (1.0 + rate * relative * norms) / crowding
        updates = options.batch_size / len(weight) * total_weight / crowding
    margin_rate = options.learning_rate / (1.0 + rate * (geometry.mean_square + bias_square))
    shrinkage = min(0.5, margin_rate * alpha * updates / total_weight)
    return steps.astype(data.X.dtype), shrinkage
