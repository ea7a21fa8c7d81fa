"""The models of the benchmark.

`MODELS` maps the names of the command line to models. To add a peer, add an entry.
"""

import warnings
from functools import partial

import joblib
from interface import EstimatorModel
from label_list_peers import FastText, NapkinHSM, NapkinPLT
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import ComplementNB
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

OURS = "SparseExpertClassifier"


class SparseExperts(EstimatorModel):
    """SparseExpertClassifier with its defaults: one fit, predictions at several top_k."""

    module = "skparse"
    note = "all defaults but n_jobs and random_state"
    readings = ("", "top_k=1", "top_k=2", "top_k=4")

    def build(self):
        """Return the estimator; only threads and seed are set."""
        from skparse import SparseExpertClassifier

        return SparseExpertClassifier(
            n_jobs=self.settings.threads, random_state=self.settings.seed
        )

    def set_reading(self, reading):
        """Set top_k, without another fit."""
        top_k = int(reading.removeprefix("top_k=")) if reading else self.build().top_k
        self.estimator.set_params(top_k=top_k)

    def details(self):
        """Return the width and the epochs that resulted from the defaults."""
        return {
            "n_experts": int(self.estimator.n_experts_),
            "top_k": int(self.estimator.top_k),
            "epochs": int(self.estimator.n_iter_),
        }


class LinearModel(EstimatorModel):
    """A linear classifier of scikit-learn, one-vs-rest with several labels per sample.

    It is fitted with `params`. If there is a `grid`, its best parameters by 3-fold
    cross-validation on the training part are used instead.
    """

    def __init__(self, settings, make, params, grid=None, has_proba=True):
        super().__init__(settings)
        self._make, self._params, self._grid = make, dict(params), grid
        self._cv_score = None
        self.has_proba = has_proba
        shown = params if grid is None else grid
        self.note = ", ".join(f"{name}={value}" for name, value in shown.items())
        self.note += "" if grid is None else ", the best by 3-fold cross-validation"

    def build(self):
        """Return the estimator with the current parameters."""
        estimator = self._make(self.settings, **self._params)
        if self.settings.multilabel:
            return OneVsRestClassifier(estimator, n_jobs=self.settings.threads)
        return estimator

    def fit(self, rows, y):
        """Fit a new estimator, in threads where it supports them."""
        with joblib.parallel_config(backend="threading"):
            super().fit(rows, y)

    def tune(self, rows, y):
        """Set the best parameters of the grid."""
        if self._grid is None:
            return
        prefix, scoring, folds = "", "accuracy", StratifiedKFold
        if self.settings.multilabel:
            prefix, scoring, folds = "estimator__", "f1_micro", KFold
        search = GridSearchCV(
            self.build(),
            {prefix + name: values for name, values in self._grid.items()},
            scoring=scoring,
            cv=folds(3, shuffle=True, random_state=self.settings.seed),
            refit=False,
            n_jobs=self.settings.threads,
        )
        with warnings.catch_warnings(), joblib.parallel_config(backend="threading"):
            warnings.simplefilter("ignore")  # classes with fewer rows than folds
            search.fit(rows, y)
        chosen = search.best_params_.items()
        self._params = {name.removeprefix(prefix): value for name, value in chosen}
        self._cv_score = float(search.best_score_)

    def details(self):
        """Return the current parameters, and the cross-validation score that chose them."""
        tuned = {} if self._cv_score is None else {"cv_score": self._cv_score}
        return {"params": self._params, **tuned}


def make_linear_svc(settings, **params):
    """Return LIBLINEAR with the squared hinge loss; it does not use threads."""
    return LinearSVC(random_state=settings.seed, **params)


def make_sgd(settings, loss, **params):
    """Return stochastic gradient descent, with the classes distributed over the threads."""
    return SGDClassifier(loss=loss, random_state=settings.seed, n_jobs=settings.threads, **params)


def make_logistic_regression(settings, **params):
    """Return multinomial logistic regression, with enough iterations to converge."""
    return LogisticRegression(max_iter=1000, **params)


def make_complement_nb(settings, **params):
    """Return complement naive Bayes; it needs neither seed nor threads."""
    return ComplementNB(**params)


class MLP(EstimatorModel):
    """MLPClassifier with as many hidden units as the model of this package has experts."""

    epochs = 2
    note = f"hidden units as many as experts, {epochs} epochs only: read its time per epoch"

    def build(self):
        """Return the estimator."""
        return MLPClassifier(
            (self.settings.width,), max_iter=self.epochs, random_state=self.settings.seed
        )

    def details(self):
        """Return its width and epochs."""
        return {"hidden_units": self.settings.width, "epochs": int(self.estimator.n_iter_)}


class Skorch(EstimatorModel):
    """A dense network of the same width on an embedding bag, trained by skorch."""

    module = "skorch"
    single_label_only = True
    epochs = 8
    note = (
        f"embedding bag, ReLU, linear; hidden units as many as experts, Adagrad, {epochs} epochs"
    )

    def fit(self, rows, y):
        """Fit a fresh network."""
        import torch
        from embedding_network import build_network

        torch.manual_seed(self.settings.seed)
        width, n_classes = self.settings.width, self.settings.n_classes
        network = build_network(rows.shape[1], width, n_classes, self.epochs)
        self.estimator = network.fit(rows, y)

    def details(self):
        """Return its width and epochs."""
        return {"hidden_units": self.settings.width, "epochs": self.epochs}


def with_tuned(name, make, params, grid, **options):
    """Return a linear peer twice: with fixed parameters, and tuned, with the name NAME-cv."""
    fixed = partial(LinearModel, make=make, params=params, **options)
    return {name: fixed, f"{name}-cv": partial(fixed, grid=grid)}


SMALL_ALPHAS = {"alpha": [1e-6, 3e-6, 1e-5, 3e-5, 1e-4]}
LARGE_ALPHAS = {"alpha": [1e-5, 3e-5, 1e-4, 3e-4]}

# Ours is first, as its width is the width of the networks.
MODELS = {
    OURS: SparseExperts,
    **with_tuned(
        "LinearSVC",
        make_linear_svc,
        {"C": 1.0},
        {"C": [0.1, 0.3, 1.0, 3.0, 10.0]},
        has_proba=False,
    ),
    **with_tuned(
        "SGD-log_loss", partial(make_sgd, loss="log_loss"), {"alpha": 1e-5}, SMALL_ALPHAS
    ),
    **with_tuned(
        "SGD-modified_huber",
        partial(make_sgd, loss="modified_huber"),
        {"alpha": 1e-5},
        LARGE_ALPHAS,
    ),
    **with_tuned(
        "LogisticRegression", make_logistic_regression, {"C": 10.0}, {"C": [1.0, 10.0, 100.0]}
    ),
    **with_tuned("ComplementNB", make_complement_nb, {"alpha": 1.0}, {"alpha": [0.1, 0.3, 1.0]}),
    "MLPClassifier": MLP,
    "skorch": Skorch,
    "fastText": FastText,
    "napkinXC-PLT": NapkinPLT,
    "napkinXC-HSM": NapkinHSM,
}
