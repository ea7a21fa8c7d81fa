"""The choice of the penalty inside a fit: the rule and what it measures."""

import pickle
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from noisy_documents import SAMPLES_NEEDED, draw_documents, draw_noisy
from numpy.testing import assert_array_equal
from stages import RecordingEngine, prepare, run

from skparse._engines import get_engine
from skparse._training import penalty
from skparse._training.connections import connect
from skparse._training.held_out import hold_out
from skparse._training.linear import run_linear, start_linear
from skparse._training.linear_run import run_epochs
from skparse._training.penalty import ALPHAS, COMPARED_AFTER, choose_penalty
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

    ``losses`` has for every alpha (log-loss, squared hinge) after the first comparison and
    after the second. ``epochs`` records (alpha, number of epochs) of every run.
    """

    def __init__(self, losses, monkeypatch, begun):
        self.losses, self.epochs = losses, []
        self.problem, self.draft = begun
        monkeypatch.setattr(penalty, "run_epochs", self.run_epochs)
        monkeypatch.setattr(penalty, "model_from_margins", lambda d, margins, bias: margins)
        monkeypatch.setattr(
            penalty,
            "measure_held_out",
            lambda problem, draft, model: SimpleNamespace(loss=self.loss_of(model, 0)),
        )
        monkeypatch.setattr(
            penalty, "squared_hinge", lambda data, margins, *rest: self.loss_of(margins, 1)
        )

    def run_epochs(self, problem, data, run, orders, alpha):
        # A trial begins where the draft is, and goes on from its first comparison.
        assert run is self.draft.run or run == (alpha, COMPARED_AFTER[0])
        n_epochs = run.n_epochs + len(orders)
        for mine, theirs in zip(orders, self.draft.orders[0][run.n_epochs :], strict=False):
            assert mine is theirs
        self.epochs.append((alpha, n_epochs))
        return ScriptedRun(alpha, n_epochs)

    def loss_of(self, run, place):
        return self.losses[run.alpha][COMPARED_AFTER.index(run.n_epochs)][place]

    def choose(self):
        return choose_penalty(self.problem, self.draft)


@pytest.fixture
def choose(monkeypatch, begun):
    """Return a function from scripted losses to (the chosen draft, the epochs that were run)."""

    def choose_by(losses):
        script = Script(losses, monkeypatch, begun)
        return script.choose(), script.epochs

    return choose_by


AFTER_ONE = {alpha: [(alpha, 1)] for alpha in ALPHAS}
AFTER_BOTH = {alpha: [(alpha, 1), (alpha, 4)] for alpha in ALPHAS}


@pytest.mark.parametrize("worse", [(5.1, 6.1), (5.0, 6.0), (5.0, 6.1), (NAN, NAN)])
def test_a_stronger_penalty_that_lowers_no_loss_is_given_up_after_the_first_epoch(worse, choose):
    draft, epochs = choose({1.0: [(5.0, 6.0), (4.0, 5.0)], 3.0: [worse, (0.0, 0.0)]})
    assert draft.alpha == 1.0
    assert epochs == AFTER_BOTH[1.0] + AFTER_ONE[3.0]


@pytest.mark.parametrize("mixed", [(4.9, 7.0), (9.0, 5.9), (4.9, NAN)])
@pytest.mark.parametrize(
    ("second", "alpha"),
    [
        ((3.9, 4.9), 3.0), ((3.9, 5.1), 1.0), ((4.1, 4.9), 1.0), ((4.1, 5.1), 1.0),
        ((4.0, 4.9), 1.0), ((3.9, 5.0), 1.0), ((4.0, 5.0), 1.0), ((3.9, NAN), 1.0),
    ],
)  # fmt: skip
def test_one_that_lowers_a_loss_is_compared_again_and_then_has_to_lower_all(
    mixed, second, alpha, choose
):
    draft, epochs = choose(
        {1.0: [(5.0, 6.0), (4.0, 5.0)], 3.0: [mixed, second], 9.0: [(9.0, 9.0), (0.0, 0.0)]}
    )
    assert draft.alpha == alpha
    assert epochs[:4] == AFTER_BOTH[1.0] + AFTER_BOTH[3.0]
    assert epochs[4:] == (AFTER_ONE[9.0] if alpha == 3.0 else [])


def pairs(losses):
    """Make both losses of every comparison the same number."""
    return {alpha: [(first, first), (second, second)] for alpha, (first, second) in losses.items()}


def test_the_penalty_grows_for_as_long_as_the_losses_fall(choose):
    losses = {1.0: (5.0, 4.0), 3.0: (4.0, 3.0), 9.0: (3.0, 2.0)}
    draft, epochs = choose(pairs(losses))
    assert draft.alpha == 9.0
    assert epochs == [pair for alpha in ALPHAS for pair in AFTER_BOTH[alpha]]
    draft, _ = choose(pairs({**losses, 9.0: (3.0, 3.0)}))
    assert draft.alpha == 3.0


def test_a_penalty_is_compared_with_the_next_weaker_one_not_with_the_weakest(choose):
    losses = {1.0: (9.0, 9.0), 3.0: (2.0, 2.0), 9.0: (3.0, 1.0)}
    assert choose(pairs(losses))[0].alpha == 3.0
    assert choose(pairs({**losses, 9.0: (1.0, 3.0)}))[0].alpha == 3.0


def test_no_penalty_is_skipped(choose):
    assert choose(pairs({1.0: (5.0, 4.0), 3.0: (6.0, 5.0), 9.0: (1.0, 1.0)}))[0].alpha == 1.0


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_draft_goes_on_with_the_run_of_the_chosen_penalty(alpha, choose, begun):
    falling = {a: [(9.0 - i, 8.0), (5.0 - i, 4.0 - i)] for i, a in enumerate(ALPHAS)}
    rising = {a: [(99.0, 99.0), (99.0, 99.0)] for a in ALPHAS if a > alpha}
    draft, _ = choose({**falling, **rising})
    assert draft.alpha == alpha
    assert draft.run == (alpha, COMPARED_AFTER[-1])
    unchanged = replace(draft, alpha=begun[1].alpha, run=begun[1].run)
    for name, value in vars(unchanged).items():
        assert value is getattr(begun[1], name), name


class HingeRecord:
    """Stands for `squared_hinge`, records the rows of every call, and returns one loss."""

    def __init__(self, monkeypatch):
        self.rows = []
        monkeypatch.setattr(penalty, "squared_hinge", self)

    def __call__(self, data, margins, bias, targets, rows):
        self.rows.append(rows)
        return 77.0


@pytest.mark.parametrize("n_samples", [SAMPLES_NEEDED, 2 * SAMPLES_NEEDED - 1, 20_000])
def test_the_hinge_loss_is_that_of_some_held_out_samples(n_samples, monkeypatch):
    record = HingeRecord(monkeypatch)
    problem, draft = begin(*draw_documents(n_samples, wrong=0.2, n_classes=4))
    choose_penalty(problem, draft)
    assert len(record.rows) >= 3
    for rows in record.rows:
        assert draft.held_out[rows].all()
        assert len(set(rows)) == len(rows)
        fewest = min(penalty.HINGE_ROWS, draft.held_out.sum())
        assert fewest <= len(rows) < 2 * penalty.HINGE_ROWS
        assert max(rows) > 0.97 * n_samples


@pytest.mark.parametrize(
    ("n_classes", "parameters", "measured"),
    [(2, {}, False), (4, {}, True), (4, {"n_experts": 2}, True), (2, {"n_experts": 4}, True)],
)
def test_all_but_a_single_margin_are_measured_by_the_hinge_loss_too(
    n_classes, parameters, measured, monkeypatch
):
    record = HingeRecord(monkeypatch)
    parameters = {"n_experts": n_classes, **parameters}
    problem, draft = prepare(*draw_documents(n_classes=n_classes), **parameters)
    draft = run(problem, draft, hold_out, choose_experts, connect, start_linear)
    assert draft.data.binary != measured
    choose_penalty(problem, draft)
    assert bool(record.rows) == measured


@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_log_loss_is_that_of_the_held_out_samples_alone(n_classes, monkeypatch):
    problem, draft = begin(*draw_noisy(n_classes=n_classes))
    measure, losses = penalty.measure_held_out, []

    def record(*arguments):
        losses.append(measure(*arguments))
        return losses[-1]

    def first_loss(changed):
        """Return the first loss after a change of the labels of some samples."""
        labels = draft.data.labels.copy()
        labels.indices[changed] = (labels.indices[changed] + 1) % n_classes
        losses.clear()
        choose_penalty(problem, replace(draft, data=replace(draft.data, labels=labels)))
        return losses[0].loss

    monkeypatch.setattr(penalty, "measure_held_out", record)
    unchanged = first_loss(np.zeros_like(draft.held_out))
    assert unchanged > 0
    assert first_loss(~draft.held_out) == unchanged
    assert first_loss(np.flatnonzero(draft.held_out)[:1]) != unchanged


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
    # Four epochs with each weaker penalty come before, over the same rows in the same order.
    assert len(choosing) == len(plain) + 8
    for first, expected in ((0, plain[:4]), (4, plain[:4]), (8, plain)):
        for mine, theirs in zip(choosing[first:], expected, strict=False):
            assert_array_equal(mine, theirs)
    choosing_schedules, schedules = (
        [schedule for *_, schedule, _ in engines[alpha].calls["linear_epoch"]]
        for alpha in ("auto", 9.0)
    )
    assert choosing_schedules[8:] == schedules
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
