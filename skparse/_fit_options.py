"""The parameters of the estimator, resolved against the data."""

from joblib import effective_n_jobs

from ._training.data import DENSE_SHARE, SMALL_SAMPLE
from ._training.problem import SCHEDULES, FitOptions


def resolve_options(estimator, data, samples, *, further, in_stream=False):
    """Resolve the parameters against the data."""
    n, (n_classes, n_experts) = data.X.shape[0], data.class_experts.shape
    is_small = n <= SMALL_SAMPLE and not in_stream
    dense = data.X.nnz > DENSE_SHARE * n * data.X.shape[1]
    if further or in_stream:  # a model is trained further as it was trained before
        dense = further and hasattr(estimator, "_columns")
    elif samples.multilabel or is_small or n_experts < n_classes:
        dense = False
    epochs, automatic = SCHEDULES[dense]
    automatic = n if is_small and not dense else min(automatic, n)
    epochs = epochs if estimator.max_iter == "auto" else int(estimator.max_iter)
    batch_size = automatic if estimator.batch_size == "auto" else min(int(estimator.batch_size), n)
    return FitOptions(
        n_experts=None if estimator.n_experts == "auto" else int(estimator.n_experts),
        top_k=int(estimator.top_k),
        largest_top_k=max(int(estimator.top_k), estimator.top_k_ if further else 0),
        weight_density=None if estimator.weight_density == "auto" else estimator.weight_density,
        alpha=None if estimator.alpha == "auto" else estimator.alpha,
        max_iter=1 if in_stream else epochs,
        automatic_epochs=estimator.max_iter == "auto" and not further and not in_stream,
        may_stop=estimator.early_stopping or estimator.max_iter != "auto",
        batch_size=batch_size,
        learning_rate=estimator.learning_rate_init,
        tol=estimator.tol,
        n_iter_no_change=estimator.n_iter_no_change,
        early_stopping=estimator.early_stopping,
        n_threads=effective_n_jobs(estimator.n_jobs),
        multilabel=samples.multilabel,
        full_batch=batch_size == n and not in_stream,
        in_stream=in_stream,
        dense=dense,
        # In another fit, an expert without weights could not be trained.
        keeps_unused_experts=in_stream or estimator.warm_start,
    )
