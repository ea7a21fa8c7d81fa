"""The choice of alpha inside a fit: the rule, what it looks at, and what a model keeps of it."""

import pickle
from unittest.mock import patch

import numpy as np
import pytest
from fitted_models import assert_same_model
from numpy.testing import assert_array_equal
from reference import prepare_training
from sklearn.base import clone

from skparse import SparseExpertClassifier, _kernels
from skparse import _alpha_choice as alpha_choice
from skparse import _calibration as calibration
from skparse import _training as training
from skparse.datasets import make_topic_documents
from skparse.model_selection import TopKSearchCV

SAMPLES_NEEDED = 16 * alpha_choice.ROWS_NEEDED  # one row in sixteen is kept apart
# Share of labels that are drawn at random, by number of classes: 30 to 42 % are wrong.
NOISE = {2: 0.6, 4: 0.55, 6: 0.5}


def draw_documents(
    n_samples=SAMPLES_NEEDED, *, wrong=0.0, n_classes=6, seed=0, dtype=np.float64, **options
):
    """Draw documents of which a share has another label, drawn at random."""
    options = {"n_features": 1000, "document_length": 10, "background_share": 0.3, **options}
    X, y = make_topic_documents(
        n_samples, n_topics=12, n_classes=n_classes, dtype=dtype, random_state=seed,
        return_X_y=True, **options,
    )  # fmt: skip
    rng = np.random.RandomState(seed + 1)
    return X, np.where(rng.uniform(size=n_samples) < wrong, rng.randint(n_classes, size=len(y)), y)


def draw_noisy(n_samples=SAMPLES_NEEDED, *, n_classes=6, **options):
    return draw_documents(n_samples, wrong=NOISE[n_classes], n_classes=n_classes, **options)


def fit(X, y, sample_weight=None, **parameters):
    return SparseExpertClassifier(**{"random_state": 0, **parameters}).fit(X, y, sample_weight)


@pytest.fixture(scope="module")
def noisy():
    """Samples that ask for a strong penalty, and the model that was fitted to them."""
    X, y = draw_noisy()
    model = fit(X, y)
    assert model.alpha_ > 1
    return X, y, model


class ScriptedEpochs:
    """Runs that are pairs (alpha, number of epochs), with losses by a script.

    ``losses`` has for every alpha those after the first comparison and after the second.
    """

    start = "start", 0

    def __init__(self, losses):
        self.losses, self.epochs = losses, []

    def advance(self, run, alpha, n_epochs):
        # A trial begins at the start and goes on from where its first comparison was.
        first, second = alpha_choice.COMPARED_AFTER
        assert run == (self.start if n_epochs == first else (alpha, first))
        assert n_epochs in (first, second)
        self.epochs.append((alpha, n_epochs))
        return alpha, n_epochs

    def measure(self, run):
        alpha, n_epochs = run
        return np.array(self.losses[alpha][alpha_choice.COMPARED_AFTER.index(n_epochs)])

    def choose(self):
        return alpha_choice.choose_alpha(self.start, self.advance, self.measure)


AFTER_ONE = {alpha: [(alpha, 1)] for alpha in alpha_choice.ALPHAS}
AFTER_BOTH = {alpha: [(alpha, 1), (alpha, 4)] for alpha in alpha_choice.ALPHAS}
NAN = float("nan")


@pytest.mark.parametrize("worse", [(5.1, 6.1), (5.0, 6.0), (5.0, 6.1), (NAN, NAN)])
def test_a_stronger_penalty_that_nothing_speaks_for_is_given_up_after_the_first_epoch(worse):
    epochs = ScriptedEpochs({1.0: [(5.0, 6.0), (4.0, 5.0)], 3.0: [worse, (0.0, 0.0)]})
    assert epochs.choose().alpha == 1.0
    assert epochs.epochs == AFTER_BOTH[1.0] + AFTER_ONE[3.0]


@pytest.mark.parametrize("mixed", [(4.9, 7.0), (9.0, 5.9), (4.9, NAN)])
@pytest.mark.parametrize(
    ("second", "alpha"),
    [
        ((3.9, 4.9), 3.0), ((3.9, 5.1), 1.0), ((4.1, 4.9), 1.0), ((4.1, 5.1), 1.0),
        ((4.0, 4.9), 1.0), ((3.9, 5.0), 1.0), ((4.0, 5.0), 1.0), ((3.9, NAN), 1.0),
    ],
)  # fmt: skip
def test_one_that_anything_speaks_for_is_compared_again_and_then_needs_everything(
    mixed, second, alpha
):
    losses = {1.0: [(5.0, 6.0), (4.0, 5.0)], 3.0: [mixed, second], 9.0: [(9.0, 9.0), (0.0, 0.0)]}
    epochs = ScriptedEpochs(losses)
    assert epochs.choose().alpha == alpha
    assert epochs.epochs[:4] == AFTER_BOTH[1.0] + AFTER_BOTH[3.0]
    assert epochs.epochs[4:] == (AFTER_ONE[9.0] if alpha == 3.0 else [])


def test_the_penalty_grows_for_as_long_as_that_pays():
    losses = {1.0: [(5.0,), (4.0,)], 3.0: [(4.0,), (3.0,)], 9.0: [(3.0,), (2.0,)]}
    epochs = ScriptedEpochs(losses)
    assert epochs.choose().alpha == 9.0
    assert epochs.epochs == [pair for alpha in alpha_choice.ALPHAS for pair in AFTER_BOTH[alpha]]
    epochs = ScriptedEpochs({**losses, 9.0: [(3.0,), (3.0,)]})
    assert epochs.choose().alpha == 3.0


def test_a_penalty_is_compared_with_the_next_weaker_one_not_with_the_weakest():
    losses = {1.0: [(9.0,), (9.0,)], 3.0: [(2.0,), (2.0,)], 9.0: [(3.0,), (1.0,)]}
    assert ScriptedEpochs(losses).choose().alpha == 3.0
    assert ScriptedEpochs({**losses, 9.0: [(1.0,), (3.0,)]}).choose().alpha == 3.0


def test_none_is_left_out():
    losses = {1.0: [(5.0,), (4.0,)], 3.0: [(6.0,), (5.0,)], 9.0: [(1.0,), (1.0,)]}
    assert ScriptedEpochs(losses).choose().alpha == 1.0


@pytest.mark.parametrize("alpha", alpha_choice.ALPHAS)
def test_the_run_and_the_losses_are_those_of_the_chosen_penalty(alpha):
    falling = {a: [(9.0 - i, 8.0), (5.0 - i, 4.0 - i)] for i, a in enumerate(alpha_choice.ALPHAS)}
    rising = {a: [(99.0, 99.0), (99.0, 99.0)] for a in alpha_choice.ALPHAS if a > alpha}
    chosen = ScriptedEpochs({**falling, **rising}).choose()
    assert chosen.alpha == alpha
    assert chosen.run == (alpha, alpha_choice.COMPARED_AFTER[-1])
    assert_array_equal(chosen.losses, falling[alpha])


def inside_of_a_fit(X, y, **parameters):
    """Intercept `choose_alpha` inside of a fit; returns (start, advance, measure, held_out)."""
    data, settings = prepare_training(X, y, **parameters)
    held_out = calibration.choose_held_out(len(y), False, np.random.RandomState(0))
    choose = patch.object(alpha_choice, "choose_alpha", side_effect=InterruptedError)
    with choose as asked, pytest.raises(InterruptedError):
        training.train(data, settings, _kernels, np.random.RandomState(0))
    return *asked.call_args.args, held_out


@pytest.mark.parametrize(("n_classes", "n_losses"), [(2, 1), (4, 2)])
@pytest.mark.parametrize("n_samples", [SAMPLES_NEEDED, 2 * SAMPLES_NEEDED - 1, 20_000])
def test_the_choice_looks_at_rows_that_are_kept_apart(n_samples, n_classes, n_losses):
    X, y = draw_documents(n_samples, wrong=0.2, n_classes=n_classes)
    start, advance, measure, held_out = inside_of_a_fit(X, y)
    run = advance(start, 3.0, 1)
    seen = []

    def record(data, margins, bias, targets, rows):
        seen.extend(rows)
        return 77.0

    with patch.object(training.linear_start, "squared_hinge", record):
        losses = measure(run)
    assert losses.shape == (n_losses,)
    assert losses[0] > 0
    assert_array_equal(losses[1:], 77.0)
    if n_losses == 2:
        assert held_out[seen].all()
        assert len(set(seen)) == len(seen)
        fewest = min(alpha_choice.HINGE_ROWS, held_out.sum())
        assert fewest <= len(seen) < 2 * alpha_choice.HINGE_ROWS
        assert max(seen) > 0.97 * n_samples


def test_two_experts_for_four_classes_are_measured_by_both_losses():
    X, y = draw_documents(n_classes=4)
    start, advance, measure, _ = inside_of_a_fit(X, y, n_experts=2)
    assert measure(advance(start, 1.0, 1)).shape == (2,)


def test_a_stronger_penalty_makes_smaller_margins_and_changes_no_run():
    start, advance, measure, _ = inside_of_a_fit(*draw_documents(wrong=0.3))
    begun, norms = pickle.dumps(start), []
    for alpha in alpha_choice.ALPHAS:
        run = advance(start, alpha, 1)
        after_one = pickle.dumps(run)
        further = advance(run, alpha, 4)
        measure(run)
        assert (run.n_epochs, further.n_epochs) == (1, 4)
        assert pickle.dumps(run) == after_one
        norms.append(np.linalg.norm(further.average()[0].data))
    assert pickle.dumps(start) == begun
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.7 * norms[0]


class RecordingEngine:
    """The kernels, with a record of the rows and the clock of every linear epoch."""

    nested_epoch = staticmethod(_kernels.nested_epoch)

    def __init__(self):
        self.orders, self.clocks = [], []

    def __getattr__(self, name):
        return getattr(_kernels, name)

    def linear_epoch(self, *arguments):
        self.orders.append(arguments[1][0])
        self.clocks.append(arguments[6])
        return _kernels.linear_epoch(*arguments)


@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_epochs_that_choose_are_those_of_the_fit_and_see_no_row_that_is_kept_apart(n_classes):
    X, y = draw_noisy(n_classes=n_classes)
    held_out = calibration.choose_held_out(len(y), False, np.random.RandomState(0))
    engines, alphas = {}, {}
    for alpha in ("auto", 9.0):
        engines[alpha] = RecordingEngine()
        data, settings = prepare_training(X, y, alpha=alpha, max_iter=1)
        result = training.train(data, settings, engines[alpha], np.random.RandomState(0))
        alphas[alpha] = result.alpha
    assert alphas == {"auto": 9.0, 9.0: 9.0}
    choosing, plain = engines["auto"].orders, engines[9.0].orders
    # Four epochs with each weaker penalty come on top, over the same rows in the same order.
    assert len(choosing) == len(plain) + 8
    for first, expected in ((0, plain[:4]), (4, plain[:4]), (8, plain)):
        for mine, theirs in zip(choosing[first:], expected, strict=False):
            assert_array_equal(mine, theirs)
    assert engines["auto"].clocks[8:] == engines[9.0].clocks
    for order in choosing[:-2]:
        assert not held_out[order].any()
    for order in choosing[-2:]:
        assert_array_equal(np.sort(order), np.arange(len(y)))


@pytest.mark.parametrize("n_classes", [2, 4, 6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_much_label_noise_asks_for_a_strong_penalty_and_gains_by_it(n_classes, seed):
    X, noisy = draw_noisy(6500, n_classes=n_classes, seed=seed)
    _, clean = draw_documents(6500, n_classes=n_classes, seed=seed)
    model, weak = (fit(X[:5000], noisy[:5000], alpha=alpha) for alpha in ("auto", 1.0))
    assert model.alpha_ in (3.0, 9.0)
    assert model.score(X[5000:], clean[5000:]) >= weak.score(X[5000:], clean[5000:])


@pytest.mark.parametrize("parameters", [{}, {"n_experts": 9}, {"weight_density": 0.5}], ids=str)
@pytest.mark.parametrize("n_classes", [4, 6])
def test_clean_labels_ask_for_the_weakest_penalty(n_classes, parameters):
    X, y = draw_documents(5000, n_classes=n_classes)
    model = fit(X, y, **parameters)
    assert model.alpha_ == 1.0
    assert_same_model(model, fit(X, y, alpha=1.0, **parameters))


def test_clean_labels_of_two_classes_ask_for_the_weakest_penalty():
    X, y = draw_documents(
        5000, n_classes=2, n_features=300, document_length=20, background_share=0.6
    )
    model = fit(X, y)
    assert model.alpha_ == 1.0
    assert_same_model(model, fit(X, y, alpha=1.0))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "parameters",
    [{}, {"n_experts": 9}, {"n_experts": 4}, {"weight_density": 0.5}, {"batch_size": 100}],
    ids=str,
)
@pytest.mark.parametrize("n_classes", [2, 6])
def test_a_fit_that_chooses_gives_the_model_of_a_fit_with_that_penalty(
    n_classes, parameters, dtype
):
    X, y = draw_noisy(5000, n_classes=n_classes, dtype=dtype)
    weight = np.random.RandomState(3).uniform(0.3, 2.0, size=len(y))
    model = fit(X, y, weight, **parameters)
    assert model.alpha_ > 1
    same = fit(X, y, weight, alpha=model.alpha_, **parameters)
    assert_same_model(model, same)
    assert model._score_map == same._score_map
    assert model.loss_curve_ == same.loss_curve_
    other = fit(X, y, weight, alpha=1.0, **parameters)
    assert np.abs(model.router_coef_.data - other.router_coef_.data).max() > 0.01


def test_a_fit_with_a_shared_view_gives_the_model_of_a_fit_with_the_penalty_it_chose():
    X, y = make_topic_documents(
        SAMPLES_NEEDED, 300, 20, n_classes=20, document_length=5, random_state=0, return_X_y=True
    )
    wrong = np.random.RandomState(0).uniform(size=len(y)) < 0.4
    y = np.where(wrong, np.random.RandomState(1).randint(20, size=len(y)), y)
    with patch.object(training, "_take_view", wraps=training._take_view) as take_view:
        model = fit(X, y)
        assert take_view.called
    assert model.alpha_ > 1
    assert_same_model(model, fit(X, y, alpha=model.alpha_))


def test_with_few_samples_nothing_is_chosen():
    X, y = draw_noisy()
    assert fit(X, y).alpha_ > 1
    assert fit(X[1:], y[1:]).alpha_ == 1.0
    assert fit(X[:1500], y[:1500]).alpha_ == 1.0
    assert fit(X[:100], y[:100]).alpha_ == 1.0


def test_samples_for_early_stopping_do_not_count():
    X, y = draw_noisy(SAMPLES_NEEDED * 5 // 4)
    assert fit(X, y, early_stopping=True, validation_fraction=0.1).alpha_ > 1
    assert fit(X, y, early_stopping=True, validation_fraction=0.3).alpha_ == 1.0


def test_with_several_labels_nothing_is_chosen():
    X, y = draw_noisy()
    assert fit(X, np.eye(6, dtype=int)[y]).alpha_ == 1.0


@pytest.mark.parametrize("alpha", [0.25, 1.0, 2, 9.0, 100.0])
def test_a_number_is_taken_as_it_is(noisy, alpha):
    X, y, _ = noisy
    with patch.object(alpha_choice, "choose_alpha") as choose:
        model = fit(X, y, alpha=alpha, max_iter=1)
    assert not choose.called
    assert model.alpha_ == alpha
    assert type(model.alpha_) is float
    assert model.alpha == alpha


@pytest.mark.parametrize("alpha", [0, 0.0, -1, "strong", None, float("nan")])
def test_what_is_no_penalty_is_refused(alpha):
    X, y = draw_documents(50)
    with pytest.raises(ValueError, match="'alpha' parameter of SparseExpertClassifier must be"):
        fit(X, y, alpha=alpha)


@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_choice_does_not_depend_on_the_number_of_threads(n_classes):
    X, y = draw_noisy(n_classes=n_classes, dtype=np.float32)
    one, two = (fit(X, y, n_jobs=n_jobs) for n_jobs in (1, 2))
    assert one.alpha_ == two.alpha_ > 1
    assert_same_model(one, two)


def test_both_engines_choose_alike():
    X, y = draw_noisy()
    of_kernels, of_torch = (
        fit(X, y, engine=engine, max_iter=1, batch_size=256) for engine in ("numba", "torch")
    )
    assert of_kernels.alpha_ == of_torch.alpha_ > 1


@pytest.mark.parametrize("factor", [2.0**-10, 37.0, 1e4])
def test_the_unit_of_the_features_does_not_change_the_choice(noisy, factor):
    X, y, model = noisy
    assert fit(factor * X, y).alpha_ == model.alpha_


def test_the_names_of_the_classes_do_not_change_the_choice(noisy):
    X, y, model = noisy
    named = fit(X, np.array(list("abcdef"))[y])
    assert named.alpha_ == model.alpha_
    assert_array_equal(named.predict_proba(X), model.predict_proba(X))


def penalty_of_next_training(model, name, *arguments, **keywords):
    """Return the alpha of the settings that `fit` or `partial_fit` hands to training."""
    inner = {"fit": "train_further", "partial_fit": "train_on_stream"}[name]
    train = patch.object(training, inner, side_effect=InterruptedError)
    with train as asked, pytest.raises(InterruptedError):
        getattr(model, name)(*arguments, **keywords)
    settings = asked.call_args.args[2]
    assert isinstance(settings, training.TrainingSettings)
    return settings.alpha


@pytest.mark.parametrize("name", ["fit", "partial_fit"])
def test_a_model_learns_on_with_the_penalty_that_was_chosen(noisy, name):
    X, y, model = noisy
    alpha, model = model.alpha_, pickle.loads(pickle.dumps(model)).set_params(warm_start=True)
    few = X[:500], y[:500]
    for samples in (few, (X, y), few):
        assert penalty_of_next_training(model, name, *samples) == alpha
        getattr(model, name)(*samples)
        assert model.alpha_ == alpha


@pytest.mark.parametrize("name", ["fit", "partial_fit"])
def test_a_model_learns_on_with_another_penalty_if_it_is_told_to(noisy, name):
    X, y, model = noisy
    model = pickle.loads(pickle.dumps(model)).set_params(warm_start=True, alpha=2.0)
    few = X[:500], y[:500]
    assert penalty_of_next_training(model, name, *few) == 2.0
    getattr(model, name)(*few)
    assert model.alpha_ == 2.0
    model.set_params(alpha="auto")
    assert penalty_of_next_training(model, name, *few) == 2.0


def test_a_warm_start_does_not_choose(noisy):
    X, y, _ = noisy
    model = fit(X[:500], y[:500], warm_start=True)
    model.fit(X, y)
    assert model.alpha_ == 1.0


def test_a_stream_does_not_choose(noisy):
    X, y, _ = noisy
    model = SparseExpertClassifier(random_state=0)
    for _ in range(2):
        model.partial_fit(X, y, classes=np.arange(6))
        assert model.alpha_ == 1.0
    assert penalty_of_next_training(model, "partial_fit", X, y) == 1.0
    strong = SparseExpertClassifier(alpha=4.0, random_state=0)
    assert strong.partial_fit(X, y, classes=np.arange(6)).alpha_ == 4.0


def test_a_new_fit_chooses_anew(noisy):
    X, y, model = noisy
    again = pickle.loads(pickle.dumps(model))
    clean = draw_documents()
    assert again.fit(*clean).alpha_ == 1.0
    assert again.fit(X, y).alpha_ == model.alpha_
    assert_same_model(again, model)
    assert again.fit(X[:500], y[:500]).alpha_ == 1.0
    assert not hasattr(clone(model), "alpha_")


def test_a_copy_of_a_model_knows_the_penalty_and_learns_on_with_it(noisy):
    X, y, model = noisy
    restored = pickle.loads(pickle.dumps(model))
    for copy in (restored, model.compress(dtype="int8"), model.compress(dtype=None)):
        assert copy.alpha_ == model.alpha_
        assert type(copy.alpha_) is float
        assert copy.alpha == "auto"
        assert penalty_of_next_training(copy, "partial_fit", X, y) == model.alpha_
    mine = pickle.loads(pickle.dumps(model)).partial_fit(X[:500], y[:500])
    assert_same_model(restored.partial_fit(X[:500], y[:500]), mine)


def test_a_search_over_top_k_chooses_in_its_last_fit(noisy):
    X, y, model = noisy
    search = TopKSearchCV(SparseExpertClassifier(random_state=0), top_ks=(1, 8), cv=2).fit(X, y)
    assert search.best_estimator_.alpha_ == model.alpha_
    assert_same_model(search.best_estimator_, model)
    search.set_params(estimator__alpha=2.0).fit(X, y)
    assert search.best_estimator_.alpha_ == 2.0
