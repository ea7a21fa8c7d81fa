"""A dense two-layer network on sparse rows, for skorch: a peer without sparse experts.

The first layer is an embedding bag with sparse gradients. It reads only the words of a row, and is
the fastest such network in plain torch.
"""

import numpy as np
import torch
from skorch import NeuralNetClassifier
from torch import nn


class SparseRows(torch.utils.data.Dataset):
    """Rows of a CSR matrix, one at a time."""

    def __init__(self, X, y=None):
        self.X, self.y = X, y

    def __len__(self):
        """Return the number of rows."""
        return self.X.shape[0]

    def __getitem__(self, row):
        """Return indices and values of a row, and its class."""
        words = slice(self.X.indptr[row], self.X.indptr[row + 1])
        return self.X.indices[words], self.X.data[words], 0 if self.y is None else self.y[row]


def collate(rows):
    """Join rows, padded with zero values; return the arguments of the network and the classes."""
    indices, values, y = zip(*rows, strict=True)
    lengths = np.array([len(row) for row in indices])
    filled = np.arange(max(1, lengths.max())) < lengths[:, None]
    words, weights = np.zeros(filled.shape, np.int64), np.zeros(filled.shape, np.float32)
    words[filled], weights[filled] = np.concatenate(indices), np.concatenate(values)
    inputs = {"words": torch.from_numpy(words), "weights": torch.from_numpy(weights)}
    return inputs, torch.tensor(np.array(y))


class EmbeddingNetwork(nn.Module):
    """ReLU(W1 x + b1) with all units kept, and a linear output."""

    def __init__(self, n_features, n_units, n_classes):
        super().__init__()
        self.hidden = nn.EmbeddingBag(n_features, n_units, mode="sum", sparse=True)
        nn.init.normal_(self.hidden.weight, std=0.1)
        self.bias = nn.Parameter(torch.zeros(n_units))
        self.output = nn.Linear(n_units, n_classes)

    def forward(self, words, weights):
        """Return the scores of a batch (n_samples, n_classes)."""
        hidden = torch.relu(self.hidden(words, per_sample_weights=weights) + self.bias)
        return self.output(hidden)


def build_network(n_features, n_units, n_classes, epochs):
    """Return an unfitted skorch classifier around the network."""
    return NeuralNetClassifier(
        EmbeddingNetwork,
        module__n_features=n_features,
        module__n_units=n_units,
        module__n_classes=n_classes,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adagrad,  # supports sparse gradients
        lr=0.05,
        batch_size=32,
        iterator_valid__batch_size=1024,
        max_epochs=epochs,
        dataset=SparseRows,
        iterator_train__collate_fn=collate,
        iterator_valid__collate_fn=collate,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
