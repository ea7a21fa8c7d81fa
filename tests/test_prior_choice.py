"""How much of naive Bayes comes back after the linear epochs: the rule, and what it changes."""

from unittest.mock import patch

import numpy as np
import pytest
from numpy.testing import assert_allclose
from reference import prepare_training

from skparse import SparseExpertClassifier, _kernels
from skparse import _prior_choice as prior_choice
from skparse import _training as training
from skparse.datasets import make_topic_documents

NONE, *LARGER = 0.0, *prior_choice.SHARES
ENOUGH = 1.01 * prior_choice.WORTH


def choose(losses, typical_weight=1.0):
    """Choose by the losses of no share and of larger ones; returns (share, times measured)."""
    script = dict(zip([NONE, *LARGER], losses, strict=False))
    asked = []

    def measure(share):
        asked.append(share)
        return script[share]

    return prior_choice.choose_prior_share(measure, typical_weight), len(asked)


def draw_short_documents(n_samples=2000, *, document_length=6, n_classes=4):
    X, y = make_topic_documents(
        n_samples, 1500, 8, n_classes=n_classes, document_length=document_length,
        background_share=0.5, dtype=np.float64, random_state=0, return_X_y=True,
    )  # fmt: skip
    wrong = np.random.RandomState(1).uniform(size=n_samples) < 0.3
    return X, np.where(wrong, np.random.RandomState(2).randint(n_classes, size=n_samples), y)


def test_without_a_gain_nothing_comes_back_and_one_share_was_measured():
    assert choose([100.0, 100.0]) == (0.0, 2)
    assert choose([100.0, 100.1 - prior_choice.WORTH]) == (0.0, 2)


def test_the_share_grows_for_as_long_as_that_is_worth_it():
    assert choose([100.0, 100.0 - ENOUGH, 99.9 - ENOUGH]) == (LARGER[0], 3)
    assert choose([100.0, 100.0 - ENOUGH, 100.0 - 2 * ENOUGH, 100.0]) == (LARGER[1], 4)
    assert choose(100.0 - ENOUGH * np.arange(4)) == (LARGER[2], 4)


def test_the_unit_of_the_weights_does_not_matter():
    losses = np.array([100.0, 100.0 - ENOUGH, 100.0])
    assert choose(1000 * losses, 1000.0) == choose(losses)
    assert choose(losses, 1.1) == (0.0, 2)


def test_a_loss_that_is_no_number_brings_nothing_back():
    assert choose([np.nan, 0.0]) == (0.0, 2)
    assert choose([100.0, np.nan]) == (0.0, 2)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_what_comes_back_is_that_share_of_the_start(n_classes):
    X, y = draw_short_documents(n_classes=n_classes)
    data, settings = prepare_training(X, y)
    starts, begin = [], training.linear_start.begin_run

    def record(margins, *arguments):
        starts.append(margins)
        return begin(margins, *arguments)

    def train_with(share):
        chosen = patch.object(prior_choice, "choose_prior_share", return_value=share)
        begun = patch.object(training.linear_start, "begin_run", record)
        nested = patch.object(training, "run_nested_epochs", lambda model, *args, **rest: model)
        with chosen, begun, nested:
            return training.train(data, settings, _kernels, np.random.RandomState(0))

    without, with_some = train_with(0.0), train_with(0.5)
    difference, start = (with_some.router - without.router).toarray(), starts[0].toarray()
    if n_classes == 2:  # one weight for each feature, in the column that it speaks for
        difference, start = difference @ [-1.0, 1.0], 2 * start[:, 0]
    assert_allclose(difference, 0.5 * settings.score_map.scale * start, atol=1e-9)
    assert np.abs(start).max() > 0.01
    assert_allclose(with_some.router_intercept, without.router_intercept)


@pytest.mark.parametrize(
    ("n_samples", "document_length", "asked"), [(1000, 6, 0), (1100, 6, 1), (1100, 120, 0)]
)
def test_short_texts_with_rows_kept_apart_are_asked(n_samples, document_length, asked):
    X, y = draw_short_documents(n_samples, document_length=document_length)
    assert (X.nnz > prior_choice.LONGEST_TEXT * n_samples) == (document_length == 120)
    with patch.object(prior_choice, "choose_prior_share", return_value=0.0) as choose:
        SparseExpertClassifier(random_state=0).fit(X, y)
    assert choose.call_count == asked


def test_short_texts_of_rare_words_are_predicted_better_with_naive_bayes():
    X, y = make_topic_documents(
        4000, 8000, 40, n_classes=4, document_length=6, background_share=0.3, random_state=0,
        return_X_y=True,
    )  # fmt: skip

    def accuracy(shares):
        with patch.object(prior_choice, "SHARES", shares):
            model = SparseExpertClassifier(random_state=0, alpha=1.0).fit(X[:2500], y[:2500])
        return model.score(X[2500:], y[2500:])

    assert accuracy(prior_choice.SHARES) > accuracy(()) + 0.01
