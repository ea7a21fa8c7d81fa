"""The order of the rounds: what is submitted to the workers, and what the sums decide."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from .._model import SparseExpertModel
from .._training.held_out import (
    HELD_OUT_EVERY,
    INTERCEPT_PENALTY,
    INTERCEPT_STEPS,
    LARGE_HELD_OUT_EVERY,
    MAX_HELD_OUT,
    MAX_LOGITS,
    MIN_SAMPLES,
    OUTPUT_FACTORS,
    SCORE_FACTORS,
    HeldOutLosses,
    factor_penalty,
    least_shift,
)
from .._training.linear import EPOCHS_WITHOUT_HELD_OUT, LINEAR_EPOCHS
from .._training.low_rank import SHARPNESS
from .._training.naive_bayes import choose_prior_strength
from .._training.penalty import ALPHAS, COMPARED_AFTER, MIN_HELD_OUT, are_better
from .._training.temperatures import MAX_LOGITS as MAX_LEVEL_LOGITS
from .._training.temperatures import choose_temperatures, level_logits
from . import _frame as frames
from . import _held_out as held_out
from . import _low_rank as low_rank
from . import _partitions as partitions
from . import _rounds as rounds


@dataclass(frozen=True)
class Trained:
    """What training on a cluster has found."""

    model: Any  # SparseExpertModel, calibrated
    scaling: Any  # ScoreScaling
    alpha: float
    loss_curve: list
    expert_load: np.ndarray
    n_bytes: int  # of the parameters


class LinearEpochs:
    """Linear epochs with one penalty: parameters and their average, both on the workers."""

    def __init__(self, training, margins, alpha, *, seen=0.0):
        self.training, self.alpha, self.seen = training, alpha, seen
        self.margins = self.mean = margins
        self.n_epochs = 0

    def run(self, n_epochs, number, with_held_out=False):
        """Run further epochs; ``number`` is that of the first one, for its order."""
        training, setting = self.training, self.training.setting
        for epoch in range(number, number + n_epochs):
            arguments = self.alpha, self.seen, epoch, with_held_out
            change = training.sum_over_partitions(
                rounds.train_linear, training.frame, setting, self.margins, *arguments
            )
            shrunk = rounds.linear_shrinkage(setting, self.alpha, self.seen, with_held_out)
            self.margins = training.submit(rounds.apply_changes, self.margins, change, shrunk)
            self.mean = training.submit(rounds.average, self.mean, self.margins, self.n_epochs)
            self.seen += rounds.epoch_weight(setting, with_held_out)
            self.n_epochs += 1
            training.n_rounds += 1
        return self


class Training:
    """A fit on partitions; parameters stay on the workers until the end.

    Parameters
    ----------
    submit : callable
        ``submit(function, *arguments, **place)`` returns the future of a call.
    gather : callable
        Returns the results of a list of futures.
    find_places : callable
        Finds where partitions are now; returns arguments of ``submit`` for each, with which a call
        runs there.
    """

    def __init__(self, submit, gather, find_places):
        self.submit, self.gather, self.find_places = submit, gather, find_places
        self.n_rounds = 0

    def map(self, function, *arguments):
        """Call a function with every partition; returns futures in their order."""
        return [
            self.submit(function, part, *arguments, **place)
            for part, place in zip(self.partitions, self.find_places(self.partitions), strict=True)
        ]

    def sum_over_partitions(self, function, *arguments):
        """Add the results of all partitions in an order that depends on their number alone."""
        places = self.find_places(self.partitions)

        def add(first, last):
            # A sum is submitted before the parts after it, so that few parts wait at a time.
            if last - first == 1:
                part, place = self.partitions[first], places[first]
                return self.submit(function, part, *arguments, **place)
            middle = first + (1 << (last - first - 1).bit_length() - 1)
            return self.submit(partitions.add_parts, add(first, middle), add(middle, last))

        return add(0, len(self.partitions))

    def begin(self, futures, setting):
        """Build the connections from the statistics of all partitions."""
        self.partitions = futures
        statistics = self.sum_over_partitions(partitions.sum_statistics)
        self.frame = self.submit(frames.build_frame, statistics)
        totals = self.submit(frames.read_totals, statistics)
        measured = self.map(held_out.measure_start, self.frame)
        totals, *measured = self.gather([totals, *measured])
        self.n_held_out = totals.pop("n_held_out")
        crowding, *products = np.sum(measured, axis=0)
        self.setting = setting._replace(**totals, crowding=crowding / totals["weight"])
        self.prior_strength = choose_prior_strength(None, None, None, products)
        return self

    def measure(self, scaling, mean, term=None):
        """Measure margins on the held-out samples; returns `HeldOutLosses`."""
        measured = self.map(
            held_out.measure_margins, self.frame, self.setting, scaling, mean, term
        )
        results = filter(None, self.gather(measured))
        by_factors, misses, weight, n_rows = (sum(column) for column in zip(*results, strict=True))
        by_factors = by_factors + factor_penalty(weight / n_rows)
        best = by_factors.argmin()
        return HeldOutLosses(by_factors, float(by_factors.flat[best] + misses.flat[best]))

    def choose_penalty(self, margins):
        """Run linear epochs with the penalty after which the next stronger one is not better."""
        chosen = kept = None
        for alpha in ALPHAS:
            trial = LinearEpochs(self, margins, alpha)
            trial.run(COMPARED_AFTER, 0)
            arguments = self.frame, trial.mean, self.n_held_out
            measured = self.gather(self.map(held_out.measure_penalty, *arguments))
            losses = sum(part for part in measured if part is not None)
            if chosen is not None and not are_better(losses, kept):
                break
            chosen, kept = trial, losses
        return chosen

    def train_linear(self, scaling, alpha):
        """Run all linear epochs; returns (average, alpha, scaling, term, temperatures)."""
        margins = self.submit(rounds.start_margins, self.frame, self.prior_strength)
        n_without = EPOCHS_WITHOUT_HELD_OUT if self.n_held_out else LINEAR_EPOCHS
        if alpha is None and self.n_held_out >= MIN_HELD_OUT:
            epochs = self.choose_penalty(margins)
        else:
            epochs = LinearEpochs(self, margins, ALPHAS[0] if alpha is None else alpha)
        epochs.run(n_without - epochs.n_epochs, epochs.n_epochs)
        scaling, term = self.train_low_rank(scaling, epochs.mean)
        if not self.n_held_out:
            return epochs.mean, epochs.alpha, scaling, term, None
        scaling, temperatures = self.calibrate(scaling, epochs.mean, term)
        further = LinearEpochs(self, epochs.mean, epochs.alpha, seen=epochs.seen)
        further.run(LINEAR_EPOCHS - n_without, n_without, with_held_out=True)
        return further.mean, epochs.alpha, scaling, term, temperatures

    def train_low_rank(self, scaling, margins):
        """Train the low-rank term if there is one; returns (scaling, term or None)."""
        frame, setting = self.frame, self.setting
        worth = self.submit(low_rank.is_worth_its_time, frame, setting)
        if not self.gather([worth])[0]:
            return scaling, None
        term = self.submit(low_rank.start_term, frame, setting)
        for epoch in range(low_rank.ROUNDS):
            change = self.sum_over_partitions(low_rank.train_term, frame, setting, term, epoch)
            term = self.submit(low_rank.apply_change, term, change)
            self.n_rounds += 1
        model = self.submit(rounds.start_weights, frame, setting, scaling, margins)
        measured = self.map(low_rank.measure_spread, frame, setting, model, term)
        sums = np.sum(self.gather(measured), axis=0)
        scaling = scaling._replace(score_factor=SHARPNESS * scaling.score_factor)
        return scaling, self.submit(low_rank.finish_term, frame, term, sums)

    def calibrate(self, scaling, mean, term):
        """Choose factors on scores and outputs, and temperatures; returns both."""
        losses = self.measure(scaling, mean, term).by_factors
        of_scores, of_outputs = np.unravel_index(losses.argmin(), losses.shape)
        calibrated = scaling.calibrated(SCORE_FACTORS[of_scores], OUTPUT_FACTORS[of_outputs])
        setting = self.setting
        every = max(1, self.n_held_out * setting.n_classes // MAX_LEVEL_LOGITS)
        arguments = self.frame, setting, scaling, mean, term, every
        results = self.gather(self.map(held_out.measure_codes, *arguments))
        codes, classes, weight = zip(*filter(None, results), strict=True)
        codes = sparse.vstack(codes, format="csr")
        outputs = scaling.gain * sparse.eye_array(setting.n_classes, format="csr")
        model = SparseExpertModel(None, None, outputs, np.zeros(setting.n_classes))
        factors = {"of_scores": calibrated.score_factor, "of_outputs": calibrated.output_factor}
        temperatures = choose_temperatures(
            lambda level: level_logits(codes, model, level, **factors),
            np.concatenate(classes), np.concatenate(weight),
            min(setting.top_k, setting.n_classes),
        )  # fmt: skip
        return calibrated, temperatures

    def train(self, scaling, alpha, max_iter, report=None):
        """Train on the partitions; returns `Trained`."""
        margins, alpha, scaling, term, temperatures = self.train_linear(scaling, alpha)
        frame, setting = self.frame, self.setting
        weights = mean = self.submit(rounds.start_weights, frame, setting, scaling, margins)
        losses = []
        for epoch in range(max_iter):
            change = self.sum_over_partitions(
                rounds.train_weights, frame, setting, scaling, weights, alpha, epoch
            )
            losses.append(self.submit(rounds.read_loss, change, setting))
            weights = self.submit(
                rounds.advance_weights, frame, setting, scaling, alpha, weights, change
            )
            mean = self.submit(rounds.average, mean, weights, epoch)
            self.n_rounds += 1
            if report is not None:
                report(epoch, self.gather(losses[-1:])[0], None)
        model = self.submit(rounds.finish_weights, frame, scaling, mean, term, temperatures)
        if self.n_held_out:
            shift = self.choose_shift(model)
            model = self.submit(rounds.shift_intercept, model, shift)
        of_empty = np.sum(self.gather(self.map(rounds.sum_empty, setting, model)), axis=0)
        model = self.submit(rounds.add_prior, frame, setting, model, of_empty)
        load = self.map(rounds.count_load, setting, model)
        model, losses, load = self.gather([model]), self.gather(losses), self.gather(load)
        n_bytes = sum(array.nbytes for array in model[0].values())
        return Trained(model[0], scaling, alpha, losses, np.sum(load, axis=0), n_bytes)

    def choose_shift(self, model):
        """Choose the shift of b2 with the least log-loss of the held-out samples."""
        every = -(-self.n_held_out * self.setting.n_classes // MAX_LOGITS)
        results = self.gather(self.map(held_out.measure_logits, self.setting, model, every))
        logits, classes, weight = map(np.concatenate, zip(*filter(None, results), strict=True))
        penalty = INTERCEPT_PENALTY * weight.mean()
        return least_shift(logits, classes, weight, penalty, INTERCEPT_STEPS)


def choose_held_out(n_samples):
    """Choose of how many samples one is held out, as in a fit; zero for none."""
    if n_samples < MIN_SAMPLES:
        return 0
    return max(HELD_OUT_EVERY, min(-(-n_samples // MAX_HELD_OUT), LARGE_HELD_OUT_EVERY))
