"""Mixtures of linear margins: folds, weights, calibration, and the model they become."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from fitted_models import assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import log_loss
from stages import prepare

from skparse import SparseExpertClassifier
from skparse._training import cross_fit, mixture
from skparse._training.cross_fit import draw_folds, is_for_mixing, mix_linear, train_candidates
from skparse._training.mixture import (
    OutOfFold,
    calibrate_scores,
    choose_mixture,
    choose_strengths,
    gate_weights,
    with_empty_samples,
)
from skparse._training.scores import default_scaling
from skparse._training.text_clusters import choose_experts
from skparse.datasets import load_api_docs, make_topic_documents


def draw_documents(n_samples=600, n_classes=3, wrong=0.2, seed=0):
    X, y = make_topic_documents(
        n_samples, 400, 12, n_classes=n_classes, document_length=15, random_state=seed,
        return_X_y=True,
    )  # fmt: skip
    rng = np.random.RandomState(seed)
    noisy = np.where(rng.rand(n_samples) < wrong, rng.randint(n_classes, size=n_samples), y)
    return X, noisy


def draw_samples(n_samples=300, n_classes=3, seed=0):
    """Margins of four candidates: two good ones, a bad one, and noise."""
    rng = np.random.RandomState(seed)
    labels = rng.randint(n_classes, size=n_samples)
    own = np.eye(n_classes)[labels]
    noise = rng.normal(size=(4, n_samples, n_classes))
    strengths = np.array([1.0, 0.8, 0.2, 0.0])
    margins = strengths[:, None, None] * own + 0.7 * noise
    weight = rng.uniform(0.3, 2, n_samples)
    return OutOfFold(margins, labels, weight / weight.mean())


def loss_of(samples, strengths, bias):
    logits = np.einsum("a,anc->nc", strengths, samples.margins) + bias
    losses = -log_softmax(logits, axis=1)[np.arange(len(logits)), samples.labels]
    return samples.weight @ losses + mixture.BIAS_PENALTY / 2 * bias @ bias


# Folds


def test_each_class_is_spread_over_all_folds():
    X, y = draw_documents(503)
    problem, _ = prepare(X, y)
    folds = draw_folds(problem)
    for label in range(3):
        counts = np.bincount(folds[y == label], minlength=cross_fit.FOLDS)
        assert counts.max() - counts.min() <= 1


def test_labels_of_a_fold_do_not_change_its_margins():
    X, y = draw_documents()
    problem, draft = prepare(X, y)
    fold = draw_folds(problem) == 0
    changed = np.where(fold, (y + 1) % 3, y)
    other, other_draft = prepare(X, changed)
    found = [
        cross_fit.train_fold(p, d, fold, 7, 1) for p, d in ((problem, draft), (other, other_draft))
    ]
    # Which connections exist depends on all labels; the weights of those of the fold are tiny.
    assert_allclose(found[0].margins[1:], found[1].margins[1:], atol=0.2)
    assert found[0].margins.shape == (6, fold.sum(), 3)


def test_few_classes_with_one_expert_each_are_mixed():
    X, y = draw_documents()
    assert is_for_mixing(*prepare(X, y))
    for parameters in ({"max_iter": 4}, {"n_experts": 2}):
        assert not is_for_mixing(*prepare(X, y, **parameters))
    problem, draft = prepare(X, y, n_experts=9)
    assert not is_for_mixing(problem, choose_experts(problem, draft))
    assert not is_for_mixing(*prepare(X[:100], y[:100]))
    many = np.arange(600) % 30
    assert not is_for_mixing(*prepare(X, many))


# The mixture


@pytest.mark.parametrize("seed", [0, 1])
def test_the_weights_have_nearly_the_least_loss(seed):
    samples = draw_samples(seed=seed)
    strengths, bias = choose_strengths(samples)
    best, rng = loss_of(samples, strengths, bias), np.random.RandomState(0)
    for scale in (0.02, 0.1, 0.5):
        for _ in range(30):
            moved = strengths * np.exp(scale * rng.normal(size=4))
            other = loss_of(samples, moved, bias + scale * rng.normal(size=3))
            assert other > best - 1e-3 * best
    assert strengths[:2].min() > 5 * strengths[3]


def test_the_order_of_the_samples_does_not_change_the_mixture():
    samples = draw_samples()
    rows = np.random.RandomState(0).permutation(300)
    other = OutOfFold(samples.margins[:, rows], samples.labels[rows], samples.weight[rows])
    for found, expected in zip(choose_strengths(other), choose_strengths(samples), strict=True):
        assert_array_equal(found, expected)


def test_a_weight_of_two_is_two_samples():
    samples = draw_samples()
    twice = np.repeat(np.arange(300), 1 + np.arange(300) % 2)
    weighted = samples._replace(weight=1.0 + np.arange(300) % 2)
    repeated = OutOfFold(samples.margins[:, twice], samples.labels[twice], np.ones(len(twice)))
    pairs = zip(choose_strengths(weighted), choose_strengths(repeated), strict=True)
    for found, expected in pairs:
        assert_array_equal(found, expected)


def test_a_class_without_samples_gets_the_least_bias():
    samples = draw_samples()
    labels = np.where(samples.labels == 2, 0, samples.labels)
    _, bias = choose_strengths(samples._replace(labels=labels))
    assert bias[2] == -mixture.MAX_BIAS


def test_the_empty_sample_has_all_classes_in_their_shares():
    samples = draw_samples()
    shares = np.array([0.5, 0.0, 0.5])
    more = with_empty_samples(samples, np.ones((4, 3)), shares)
    assert more.labels[-2:].tolist() == [0, 2]
    assert_allclose(more.weight[-2:].sum(), mixture.EMPTY_SHARE * samples.weight.sum())
    assert_array_equal(more.margins[:, -2:], 1.0)


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_gate_weights_are_those_of_a_loop(top_k):
    scores = np.random.RandomState(0).normal(0.5, 1, (50, 5))
    found = gate_weights(scores, top_k)
    for row, own in zip(scores, found, strict=True):
        kept = [c for c in np.argsort(-row)[:top_k] if row[c] > 0]
        expected = np.zeros(5)
        if kept:
            masses = np.exp(row[kept] - row[kept].max())
            expected[kept] = masses / masses.sum()
        assert_allclose(own, expected, atol=1e-12)


def test_the_calibration_has_the_least_loss_of_all_factors():
    samples = draw_samples(2000)
    scores = 3 * (samples.margins[0] + 2)
    score_factor, output_factor, shift, temperatures, loss = calibrate_scores(
        scores, samples, 3.0, 3
    )

    def loss_at(of_scores, of_outputs, b2):
        logits = 3.0 * of_outputs * gate_weights(of_scores * scores, 3) + b2
        losses = -log_softmax(logits, axis=1)[np.arange(2000), samples.labels]
        return samples.weight @ losses / samples.weight.sum()

    assert_allclose(loss, loss_at(score_factor, output_factor, shift), rtol=1e-9)
    for factor in (0.5, 2.0):
        assert loss_at(factor * score_factor, output_factor, shift) > loss - 0.01
        assert loss_at(score_factor, factor * output_factor, shift) > loss - 0.01
    for place in range(3):
        for step in (-0.3, 0.3):
            moved = shift + step * np.eye(3)[place]
            assert loss_at(score_factor, output_factor, moved) > loss
    assert temperatures.shape == (3,)
    assert temperatures[0] > temperatures[-1] == 1


# The model


def trained_mixture(n_classes=3):
    X, y = draw_documents(n_classes=n_classes)
    problem, draft = prepare(X, y)
    draft = replace(draft, held_out=np.zeros(len(y), bool))
    return problem, cross_fit.cross_fit(problem, draft)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_model_has_the_weighted_margins_of_all_candidates(n_classes):
    problem, draft = trained_mixture(n_classes)
    chosen, X = draft.mixture, problem.data.X
    assert_allclose(chosen.weights.sum(), 1)
    expected = 0.0
    same = replace(problem, random_state=deepcopy(problem.random_state))
    for own, runs in train_candidates(same, draft, 8, chosen.weights):
        for weight, margins, bias in runs:
            one = own.data.X @ margins.toarray() + bias * own.data.geometry.bias_feature
            one = np.concatenate([-one, one], axis=1) if own.data.binary else one
            expected = expected + weight * one
    expected = expected + (chosen.bias if n_classes > 2 else 0)
    mixed = mix_linear(problem, draft)
    router = mixed.model.router.toarray() * mixed.data.relevance[:, None]
    scores = (X @ router + mixed.model.router_intercept) / mixed.scaling.scale
    found = scores - chosen.level
    if n_classes == 2:  # only the difference of two scores matters
        found = found[:, 1] - found[:, 0] - (chosen.bias[1] - chosen.bias[0])
        expected = expected[:, 1] - expected[:, 0]
    assert_allclose(found, expected, atol=1e-6)


def test_the_fit_has_the_calibration_of_the_mixture():
    X, y = draw_documents()
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    assert model.n_iter_ == 1 and len(model.loss_curve_) == 1
    fresh = draw_documents(seed=1)
    # The loss of samples by folds that they took no part in is that of new samples.
    assert_allclose(model.loss_curve_[0], log_loss(y, model.predict_proba(X)), atol=0.3)
    assert fresh[0].shape == X.shape
    assert model.router_intercept_.min() > 0


def test_the_number_of_threads_does_not_change_the_model():
    X, y = draw_documents(1500)
    one = SparseExpertClassifier(random_state=0).fit(X, y)
    assert_same_model(SparseExpertClassifier(n_jobs=2, random_state=0).fit(X, y), one)


def test_rows_of_two_classes_keep_both_experts():
    X, y = draw_documents(n_classes=2)
    model = SparseExpertClassifier(random_state=0).fit(X, y)
    assert (np.diff(model.transform(X).indptr) == 2).all()
    assert len(np.unique(model.predict_proba(X)[:, 1])) > 0.95 * len(y)


def test_a_given_penalty_is_the_only_one():
    X, y = draw_documents()
    assert SparseExpertClassifier(alpha=2.5, random_state=0).fit(X, y).alpha_ == pytest.approx(2.5)


def test_small_noisy_data_are_calibrated():
    texts, y = load_api_docs(return_X_y=True)
    rng = np.random.RandomState(0)
    y = np.unique(y, return_inverse=True)[1] % 4
    order = rng.permutation(len(texts))
    texts, y = np.array(texts, object)[order], y[order]
    X = TfidfVectorizer().fit_transform(texts)
    wrong = np.where(rng.rand(len(y)) < 0.3, rng.randint(4, size=len(y)), y)
    model = SparseExpertClassifier(random_state=0).fit(X[:600], wrong[:600])
    confidence = model.predict_proba(X[600:]).max(axis=1).mean()
    accuracy = (model.predict(X[600:]) == wrong[600:]).mean()
    assert abs(confidence - accuracy) < 0.06


def test_margins_of_naive_bayes_alone_make_a_model():
    samples = draw_samples()
    alone = samples._replace(margins=samples.margins[:1])
    found = choose_mixture(alone, default_scaling(3, False), 3)
    assert found.weights.tolist() == [1.0]
