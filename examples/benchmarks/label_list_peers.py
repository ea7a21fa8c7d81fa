"""Peers that read and write their own files and return lists of labels."""

import os
import re
import tempfile
from pathlib import Path

import numpy as np
from interface import Model
from measure import stored_bytes


class LabelListModel(Model):
    """A model that is written to files and returns a list of labels for each row.

    With several labels per sample, those with a probability of 0.5 or more are predicted.
    """

    def __init__(self, settings):
        super().__init__(settings)
        several = {"top_k": 0, "threshold": 0.5}
        self.limits = several if settings.multilabel else {"top_k": 1, "threshold": 0.0}

    def classes_from(self, labels):
        """Return lists of labels as classes."""
        if not self.settings.multilabel:
            return np.array([row[0] for row in labels])
        return (self.matrix_from(labels, [np.ones(len(row)) for row in labels]) > 0).astype(int)

    def matrix_from(self, labels, values):
        """Return lists of labels and of their probabilities as a matrix."""
        matrix = np.zeros((len(labels), self.settings.n_classes), np.float32)
        for row, (columns, entries) in enumerate(zip(labels, values, strict=True)):
            matrix[row, list(columns)] = entries
        return matrix


class FastText(LabelListModel):
    """fastText on the texts, with its own bigrams."""

    module = "fasttext"
    reads_text = True
    note = (
        "reads lower-cased text (words and marks set apart beforehand), own word bigrams, or "
        "character 1-3-grams where the set is of characters; dim=100, epoch=25, lr=0.5, "
        "bucket=200,000"
    )

    def rows_of(self, part):
        """Return the texts on one line each, with spaces between words and punctuation marks."""
        return [" ".join(re.findall(r"\w+|[^\w\s]", text.lower())) for text in part.text]

    def fit(self, rows, y):
        """Train, including the time to write the file that fastText reads."""
        import fasttext

        several = self.settings.multilabel
        grams = {"minn": 1, "maxn": 3} if self.settings.characters else {"wordNgrams": 2}
        labels = [np.flatnonzero(row) for row in y] if several else y[:, None]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.txt"
            with path.open("w", encoding="utf-8") as file:
                for text, codes in zip(rows, labels, strict=True):
                    file.write(" ".join([*(f"__label__{code}" for code in codes), text, "\n"]))
            self.estimator = fasttext.train_supervised(
                str(path),
                **grams,
                **{"dim": 100, "epoch": 25, "lr": 0.5, "bucket": 200_000, "verbose": 0},
                loss="ova" if several else "softmax",
                thread=self.settings.threads,
                seed=self.settings.seed,
            )

    def predict(self, rows):
        """Return labels and their probabilities, the most likely first."""
        k, threshold = self.limits["top_k"] or -1, self.limits["threshold"]
        return self.estimator.predict(rows, k=k, threshold=threshold)

    def predict_proba(self, rows):
        """Return all labels and their probabilities."""
        return self.estimator.predict(rows, k=-1)

    def to_classes(self, output):
        """Return the labels as classes."""
        return self.classes_from(self._codes(output[0]))

    def to_matrix(self, output):
        """Return the probabilities, as a matrix."""
        return self.matrix_from(self._codes(output[0]), output[1])

    def size(self):
        """Return the bytes of the file that fastText writes."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.bin")
            self.estimator.save_model(path)
            return stored_bytes(path)

    @staticmethod
    def _codes(labels):
        return [[int(label.removeprefix("__label__")) for label in row] for row in labels]


class NapkinXC(LabelListModel):
    """A label tree of napkinXC with default parameters, a strong peer with many classes."""

    module = "napkinxc"
    note = "defaults; predicts the most likely label, probabilities of all"

    def fit(self, rows, y):
        """Train; the model is a new folder."""
        from napkinxc import models

        self._folder = tempfile.TemporaryDirectory()
        options = {"threads": self.settings.threads, "seed": self.settings.seed}
        self.estimator = getattr(models, self.tree)(self._folder.name, verbose=0, **options)
        several = self.settings.multilabel
        # napkinXC accepts classes only as lists of plain integers.
        labels = [np.flatnonzero(row).tolist() for row in y] if several else y.tolist()
        self.estimator.fit(rows, labels)

    def predict(self, rows):
        """Return labels, the most likely first."""
        return self.estimator.predict(rows, **self.limits)

    def predict_proba(self, rows):
        """Return all labels with their probabilities."""
        return self.estimator.predict_proba(rows, top_k=self.settings.n_classes)

    def to_classes(self, output):
        """Return the labels as classes."""
        return self.classes_from(output)

    def to_matrix(self, output):
        """Return the probabilities, as a matrix."""
        labels = [[label for label, _ in row] for row in output]
        return self.matrix_from(labels, [[value for _, value in row] for row in output])

    def size(self):
        """Return the bytes of the model's folder."""
        return stored_bytes(self._folder.name)


class NapkinPLT(NapkinXC):
    """Probabilistic label tree."""

    tree = "PLT"


class NapkinHSM(NapkinXC):
    """Hierarchical softmax."""

    tree = "HSM"
    single_label_only = True
