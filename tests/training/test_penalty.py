"""The choice of the penalty inside a fit: the rule and what it measures."""

import math
import pickle
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from noisy_documents import SAMPLES_NEEDED, draw_documents, draw_noisy
from numpy.testing import assert_array_equal
from scipy import sparse
from stages import RecordingEngine, prepare, run

from skparse._engines import get_engine
from skparse._training import penalty
from skparse._training.connections import connect
from skparse._training.held_out import hold_out
from skparse._training.linear import run_linear, start_linear
from skparse._training.linear_run import run_epochs
from skparse._training.penalty import (
    ALPHAS,
    COMPARED_AFTER,
    MARGIN_FACTORS,
    choose_penalty,
    margin_losses,
)
from skparse._training.text_clusters import choose_experts

STAGES_BEFORE = hold_out, connect, start_linear
NAN = float("nan")


def begin(X, y, sample_weight=None, **parameters):
    """Run the stages before the choice; returns (problem, draft)."""
    problem, draft = prepare(X, y, sample_weight, **parameters)
    return problem, run(problem, draft, *STAGES_BEFORE)


def chosen_alpha(X, y, **parameters):
    return choose_penalty(*begin(X, y, **parameters)).alpha


def arrays_of(draft):
    """Return the numbers of the linear epochs of a draft."""
    (margins, bias), run = draft.run.average(), draft.run
    return margins.data, bias, np.array([run.n_epochs, run.seen])


@pytest.fixture(scope="module")
def begun():
    """A problem and a draft before the choice of the penalty."""
    return begin(*draw_documents())


class ScriptedRun(NamedTuple):
    """Stands for linear epochs with one penalty; its margins are the run itself."""

    alpha: float
    n_epochs: int

    def average(self):
        return self, None


class Script:
    """Runs linear epochs without computing anything, with losses by a script.

    ``losses`` has for every alpha (hinge loss, log-loss). ``alphas`` records what was tried.
    """

    def __init__(self, losses, monkeypatch, begun):
        self.losses, self.alphas = losses, []
        self.problem, self.draft = begun
        monkeypatch.setattr(penalty, "run_epochs", self.run_epochs)
        monkeypatch.setattr(penalty, "margin_losses", self.margin_losses)

    def run_epochs(self, problem, data, run, orders, alpha):
        assert run is self.draft.run
        assert [id(order) for order in orders] == [id(self.draft.orders[0][0])]
        self.alphas.append(alpha)
        return ScriptedRun(alpha, len(orders))

    def margin_losses(self, data, margins, bias, rows):
        hinge, log_loss = self.losses[margins.alpha]
        return np.array([hinge, log_loss + 1, log_loss, log_loss + 2])

    def choose(self):
        return choose_penalty(self.problem, self.draft)


@pytest.fixture
def choose(monkeypatch, begun):
    """Return a function from scripted losses to (the chosen draft, the penalties tried)."""

    def choose_by(losses):
        script = Script(losses, monkeypatch, begun)
        return script.choose(), script.alphas

    return choose_by


@pytest.mark.parametrize(
    ("losses", "alpha"),
    [
        ((4.9, 9.0), 3.0), ((4.9, 10.0), 3.0), ((4.9, 10.19), 3.0), ((4.9, 10.21), 1.0),
        ((5.02, 9.0), 3.0), ((5.03, 1.0), 1.0), ((NAN, 9.0), 1.0), ((4.9, NAN), 1.0),
    ],
)  # fmt: skip
def test_a_stronger_penalty_is_chosen_if_it_hardly_raises_the_losses(losses, alpha, choose):
    draft, tried = choose({1.0: (5.0, 10.0), 3.0: losses, 9.0: (9.0, 9.0)})
    assert draft.alpha == alpha
    assert tried == ([1.0, 3.0, 9.0] if alpha == 3.0 else [1.0, 3.0])


def test_the_penalty_grows_for_as_long_as_the_losses_fall(choose):
    losses = {1.0: (5.0, 4.0), 3.0: (4.0, 3.0), 9.0: (3.0, 2.0)}
    draft, tried = choose(losses)
    assert draft.alpha == 9.0
    assert tried == list(ALPHAS)
    draft, _ = choose({**losses, 9.0: (4.1, 2.0)})
    assert draft.alpha == 3.0


def test_a_penalty_is_compared_with_the_next_weaker_one_not_with_the_weakest(choose):
    assert choose({1.0: (9.0, 9.0), 3.0: (2.0, 2.0), 9.0: (3.0, 1.0)})[0].alpha == 3.0
    assert choose({1.0: (9.0, 9.0), 3.0: (2.0, 2.0), 9.0: (1.0, 3.0)})[0].alpha == 3.0


def test_no_penalty_is_skipped(choose):
    assert choose({1.0: (5.0, 4.0), 3.0: (6.0, 5.0), 9.0: (1.0, 1.0)})[0].alpha == 1.0


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_draft_goes_on_with_the_run_of_the_chosen_penalty(alpha, choose, begun):
    falling = {a: (9.0 - i, 5.0 - i) for i, a in enumerate(ALPHAS)}
    rising = {a: (99.0, 99.0) for a in ALPHAS if a > alpha}
    draft, _ = choose({**falling, **rising})
    assert draft.alpha == alpha
    assert draft.run == (alpha, COMPARED_AFTER)
    unchanged = replace(draft, alpha=begun[1].alpha, run=begun[1].run)
    for name, value in vars(unchanged).items():
        assert value is getattr(begun[1], name), name


def losses_of_a_row(row, label, experts_of, weight):
    """Hinge loss, and log-loss at each factor, of the margins of one row by loops."""
    margins = [max(row[e] for e in experts) for experts in experts_of]
    others = [m for c, m in enumerate(margins) if c != label]
    losses = [max(0.0, 1 - (margins[label] - max(others)))]
    for factor in MARGIN_FACTORS:
        total = sum(math.exp(factor * (m - margins[label])) for m in margins)
        losses.append(math.log(total))
    return weight * np.array(losses)


@pytest.mark.parametrize("at_once", [1, 7, 100, 2**18])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize(
    ("n_classes", "n_experts"), [(2, 2), (2, 4), (6, 6), (6, 4), (6, 10), (3, 2)]
)
def test_the_losses_equal_those_of_a_loop(n_classes, n_experts, dtype, rtol, at_once, monkeypatch):
    monkeypatch.setattr(penalty, "DENSE_MARGINS", at_once)
    rng = np.random.RandomState(0)
    X, y = draw_documents(n_classes=n_classes, dtype=dtype)
    weight = rng.uniform(0.5, 2, size=len(y))
    problem, draft = prepare(X, y, weight, n_experts=n_experts)
    data = run(problem, draft, hold_out, choose_experts, connect, start_linear).data
    assert data.binary == (n_experts == 2 == n_classes)
    n_margins = 1 if data.binary else n_experts
    margins = sparse.random_array((X.shape[1], n_margins), density=0.5, rng=rng, dtype=dtype)
    bias = rng.normal(scale=3.0, size=n_margins).astype(dtype)
    rows = rng.permutation(len(y))[:53]
    losses = margin_losses(data, margins.tocsr(), bias, rows)
    scores = data.X.toarray()[rows].astype(float) @ margins.toarray().astype(float)
    scores += bias.astype(float) * data.geometry.bias_feature
    if data.binary:
        scores = np.hstack([-scores, scores])
    experts_of = [np.flatnonzero(row) for row in data.class_experts.toarray()]
    labels = np.unique(y, return_inverse=True)[1]
    by_row = [
        losses_of_a_row(row, labels[i], experts_of, data.sample_weight[i])
        for row, i in zip(scores, rows, strict=True)
    ]
    assert (np.array(by_row)[:, 0] > 0).any()
    np.testing.assert_allclose(losses, np.sum(by_row, axis=0), rtol=rtol)
    assert_array_equal(margin_losses(data, margins.tocsr(), bias, rows[:0]), 0)


def test_margins_of_any_size_have_finite_losses():
    problem, draft = begin(*draw_documents())
    data, n_experts = draft.data, draft.margins.shape[1]
    bias = np.zeros(n_experts)
    bias[0] = 1e6 / data.geometry.bias_feature
    nothing = sparse.csr_array((data.X.shape[1], n_experts))
    losses = margin_losses(data, nothing, bias, np.arange(100))
    assert np.isfinite(losses).all()
    assert losses[0] > 1e6


class Record:
    """Stands for `margin_losses`, records the rows of every call, and returns one loss."""

    def __init__(self, monkeypatch):
        self.rows = []
        monkeypatch.setattr(penalty, "margin_losses", self)

    def __call__(self, data, margins, bias, rows):
        self.rows.append(rows)
        return np.array([77.0, 77.0])


@pytest.mark.parametrize("n_samples", [SAMPLES_NEEDED, 2 * SAMPLES_NEEDED - 1, 20_000])
@pytest.mark.parametrize("most", [100, 1000])
def test_the_losses_are_those_of_held_out_samples(n_samples, most, monkeypatch):
    record = Record(monkeypatch)
    monkeypatch.setattr(penalty, "COMPARED_ROWS", most)
    problem, draft = begin(*draw_documents(n_samples, wrong=0.2, n_classes=4))
    choose_penalty(problem, draft)
    assert len(record.rows) == len(ALPHAS)
    n_held_out = draft.held_out.sum()
    for rows in record.rows:
        assert draft.held_out[rows].all()
        assert len(set(rows)) == len(rows)
        assert min(most, n_held_out) <= len(rows) <= min(2 * most, n_held_out)
        assert max(rows) > 0.97 * n_samples


def test_a_stronger_penalty_makes_smaller_margins_and_changes_no_run():
    problem, draft = begin(*draw_documents(wrong=0.3))
    before, norms = pickle.dumps(draft.run), []
    for alpha in ALPHAS:
        orders = draft.orders[0]
        run = run_epochs(problem, draft.data, draft.run, orders[:1], alpha)
        after_one = pickle.dumps(run)
        further = run_epochs(problem, draft.data, run, orders[1:4], alpha)
        assert (run.n_epochs, further.n_epochs) == (1, 4)
        assert pickle.dumps(run) == after_one
        norms.append(np.linalg.norm(further.average()[0].data))
    choose_penalty(problem, draft)
    assert pickle.dumps(draft.run) == before
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.7 * norms[0]


@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_choice_takes_the_epochs_of_the_fit_and_visits_no_held_out_sample(n_classes):
    X, y = draw_noisy(n_classes=n_classes)
    engines = {}
    for alpha in ("auto", 9.0):
        engines[alpha] = RecordingEngine()
        problem, draft = begin(X, y, alpha=alpha, engine=engines[alpha])
        draft = run(problem, draft, choose_penalty, run_linear, run_linear)
        assert draft.alpha == 9.0
    choosing, plain = (engines[alpha].orders("linear_epoch") for alpha in ("auto", 9.0))
    # An epoch with each weaker penalty comes before, over the same rows in the same order.
    assert len(choosing) == len(plain) + 2
    for first, expected in ((0, plain[:1]), (1, plain[:1]), (2, plain)):
        for mine, theirs in zip(choosing[first:], expected, strict=False):
            assert_array_equal(mine, theirs)
    choosing_schedules, schedules = (
        [schedule for *_, schedule, _ in engines[alpha].calls["linear_epoch"]]
        for alpha in ("auto", 9.0)
    )
    assert choosing_schedules[2:] == schedules
    for order in choosing[:-2]:
        assert not draft.held_out[order].any()
    for order in choosing[-2:]:
        assert_array_equal(np.sort(order), np.arange(len(y)))


def test_with_few_samples_nothing_is_chosen():
    X, y = draw_noisy()
    assert chosen_alpha(X, y) > 1
    for n_samples in (len(y) - 1, 1500, 100):
        problem, draft = begin(X[:n_samples], y[:n_samples])
        assert choose_penalty(problem, draft) is draft
        assert draft.alpha == 1.0


def test_with_multilabel_targets_nothing_is_chosen():
    X, y = draw_noisy()
    problem, draft = begin(X, np.eye(6, dtype=int)[y])
    assert choose_penalty(problem, draft) is draft
    assert draft.alpha == 1.0


@pytest.mark.parametrize("alpha", [0.25, 1.0, 2, 9.0, 100.0])
def test_a_penalty_given_as_a_number_is_not_changed(alpha):
    X, y = draw_noisy()
    problem, draft = begin(X, y, alpha=alpha)
    assert choose_penalty(problem, draft) is draft
    assert draft.alpha == alpha


@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_choice_does_not_depend_on_the_number_of_threads(n_classes):
    X, y = draw_noisy(n_classes=n_classes, dtype=np.float32)
    one, two = (choose_penalty(*begin(X, y, n_threads=n, n_jobs=n)) for n in (1, 2))
    assert one.alpha == two.alpha > 1
    for mine, theirs in zip(arrays_of(one), arrays_of(two), strict=True):
        assert_array_equal(mine, theirs)


def test_both_engines_choose_the_same_penalty():
    X, y = draw_noisy()
    of_numba, of_torch = (
        chosen_alpha(X, y, engine=get_engine(name, "cpu"), batch_size=256)
        for name in ("numba", "torch")
    )
    assert of_numba == of_torch > 1


@pytest.mark.parametrize("factor", [2.0**-10, 37.0, 1e4])
def test_the_unit_of_the_features_does_not_change_the_choice(factor):
    X, y = draw_noisy()
    assert chosen_alpha(factor * X, y) == chosen_alpha(X, y) > 1
