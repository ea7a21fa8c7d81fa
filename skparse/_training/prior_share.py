"""The stage that adds some of the naive-Bayes start back, by the loss on held-out samples."""

from dataclasses import replace

from .held_out import keep_while_better, measure_held_out
from .scores import model_from_margins

MAX_NONZEROS_PER_ROW = 64  # mean, up to which there is a choice
PRIOR_SHARES = 0.5, 1.0, 2.0  # of the start, added to the average of the epochs
# Log-loss, in samples of mean weight, that a larger share has to gain: chance gains less.
MIN_GAIN = 6.0


def choose_prior_share(problem, draft):
    """Choose the share after which no larger one gains enough, 0 if none does."""
    data, held_out = problem.data, draft.held_out
    if not held_out.any() or data.X.nnz > MAX_NONZEROS_PER_ROW * data.X.shape[0]:
        return draft
    gain = MIN_GAIN * float(data.sample_weight[held_out].mean(dtype=float))

    def attempt(share, kept):
        run = draft.run._replace(prior_share=share)
        model = model_from_margins(problem, draft, *run.average())
        loss = measure_held_out(problem, draft, model).loss
        return (share, loss) if kept is None or loss < kept[1] - gain else None

    share, _ = keep_while_better((0.0, *PRIOR_SHARES), attempt)
    run = draft.run._replace(prior_share=share)
    return replace(draft, run=run, model=model_from_margins(problem, draft, *run.average()))
