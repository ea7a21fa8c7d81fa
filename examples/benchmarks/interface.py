"""The common interface of the models of the benchmark."""

import importlib.util
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import joblib
from measure import stored_bytes


@dataclass(frozen=True)
class Settings:
    """Settings of every model: threads, seed, kind of problem, width of a network."""

    threads: int
    seed: int
    width: int
    n_classes: int
    multilabel: bool
    characters: bool


class Model:
    """One model of the benchmark.

    `predict` and `predict_proba` return what the package returns, as these calls are timed.
    `to_classes` and `to_matrix` convert the result into classes and probabilities afterwards.
    """

    module = "sklearn"  # must be importable
    single_label_only = False
    reads_text = False
    has_proba = True
    note = ""  # the settings of the model, for the report
    readings = ("",)  # settings of predictions with one fit

    def __init__(self, settings):
        self.settings = settings

    def is_installed(self):
        """Return whether the package of the model is installed, without importing it."""
        return importlib.util.find_spec(self.module) is not None

    def rows_of(self, part):
        """Return the input of the model: the texts or the matrix of a part of the problem."""
        return part.text if self.reads_text else part.X

    def tune(self, rows, y):
        """Choose parameters on the training rows; by default there is nothing to choose."""

    def set_reading(self, reading):
        """Switch the fitted model to one of `readings`."""

    def to_classes(self, output):
        """Return the output of `predict` as classes."""
        return output

    def to_matrix(self, output):
        """Return the output of `predict_proba` as a matrix (n_samples, n_classes)."""
        return output

    def details(self):
        """Return facts about the fit for the report."""
        return {}


class EstimatorModel(Model):
    """A model that follows scikit-learn's conventions; `estimator` is set by `fit`."""

    def build(self):
        """Return an unfitted estimator."""
        raise NotImplementedError

    def fit(self, rows, y):
        """Fit a fresh estimator."""
        # The benchmark uses few epochs on purpose, so warnings of that are expected.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.estimator = self.build().fit(rows, y)

    def predict(self, rows):
        """Return the classes."""
        return self.estimator.predict(rows)

    def predict_proba(self, rows):
        """Return the probabilities."""
        return self.estimator.predict_proba(rows)

    def size(self):
        """Return the bytes of the fitted estimator as joblib writes it, not compressed."""
        with tempfile.TemporaryDirectory() as folder:
            return stored_bytes(*joblib.dump(self.estimator, Path(folder) / "model.joblib"))
