"""What partitions measure on held-out samples; sums over the partitions decide.

All functions are pure: Dask may run them again on another worker.
"""

import numpy as np

from .._csr import with_values
from .._engines import get_engine
from .._predictor import Predictor
from .._threads import Threads
from .._training.data import TrainingData
from .._training.held_out import OUTPUT_FACTORS, SCORE_FACTORS, held_out_codes, measure_factors
from .._training.low_rank import add_products
from .._training.naive_bayes import sum_prior_products
from .._training.penalty import COMPARED_ROWS, margin_losses
from .._training.problem import Draft, Problem
from ._rounds import margins_to_model
from ._rows import build_data, held_out_blocks, some_rows


def measure_start(partition, frame):
    """Measure what the start needs of scaled samples, (6,): crowding and held-out products.

    The crowding is that of some of the samples if there are many.
    """
    if partition is None:
        return np.zeros(6)
    some = build_data(partition, some_rows(partition), frame)
    own = TrainingData(
        some.X, some.labels, some.sample_weight, some.class_experts, some.labels, some.exposure
    )
    products = np.zeros(5)
    for rows in held_out_blocks(partition):
        data = build_data(partition, rows, frame)
        products += sum_prior_products(frame.pattern, data, np.ones(len(rows), bool))
    weight = float(partition.sample_weight.sum(dtype=np.float64))
    return np.array([weight * own.geometry.crowding, *products])


def measure_penalty(partition, frame, margins, n_held_out):
    """Sum the losses of `margin_losses` on some held-out samples; None without any."""
    if partition is None or not partition.held_out.any():
        return None
    rows = np.flatnonzero(partition.held_out)[:: max(1, n_held_out // COMPARED_ROWS)]
    router = with_values(frame.pattern, margins.values)
    data = build_data(partition, rows, frame)
    return margin_losses(data, router, margins.bias, np.arange(len(rows)))


def measure_margins(partition, frame, setting, scaling, margins, term):
    """Sum the losses of a model on the held-out samples of a partition.

    Returns
    -------
    (log-losses at all factors, misses at all factors, weight, n_held_out), or None without
    held-out samples
    """
    if partition is None or not partition.held_out.any():
        return None
    factors = (
        scaling.score_factor * SCORE_FACTORS,
        scaling.output_factor * OUTPUT_FACTORS,
    )
    model = add_term(margins_to_model(frame, setting, scaling, margins), term)
    results = []
    for rows in held_out_blocks(partition):
        codes, classes, weight = code_rows(partition, rows, frame, setting, scaling, model)
        losses = measure_factors(codes, model, classes, weight, factors)
        results.append((*losses, float(weight.sum()), len(weight)))
    return tuple(sum(column) for column in zip(*results, strict=True))


def add_term(model, term):
    """Add the products of the low-rank term, if there is one."""
    return model if term is None else add_products(model, term)


def code_rows(partition, rows, frame, setting, scaling, model):
    """Compute the gate weights that a model gives some rows, as `held_out_codes` does."""
    data, engine = build_data(partition, rows, frame), get_engine(setting.engine, setting.device)
    problem = Problem(data, setting, engine, Threads(1), None)
    draft = Draft(data=data, scaling=scaling, alpha=1.0, held_out=np.ones(len(rows), bool))
    return held_out_codes(problem, draft, model)


def measure_codes(partition, frame, setting, scaling, margins, term, every):
    """Compute the gate weights of some held-out samples, which choose the temperatures.

    Returns
    -------
    (codes, classes, weight), or None without held-out samples
    """
    if partition is None or not partition.held_out.any():
        return None
    rows = np.flatnonzero(partition.held_out)[::every]
    model = add_term(margins_to_model(frame, setting, scaling, margins), term)
    return code_rows(partition, rows, frame, setting, scaling, model)


def measure_logits(partition, setting, model, every):
    """Compute logits of held-out samples; returns (logits, classes, weights) or None."""
    if partition is None or not partition.held_out.any():
        return None
    rows = np.flatnonzero(partition.held_out)[::every]
    predictor = Predictor(model, get_engine(setting.engine, setting.device), 1)
    X = partition.X[rows]
    codes = predictor.code_block(X, 0, len(rows), min(setting.top_k, setting.n_classes))
    logits = (codes.astype(np.float64) @ model.outputs).toarray() + model.intercept
    weight = partition.sample_weight[rows].astype(np.float64)
    return logits, partition.classes[rows], weight
