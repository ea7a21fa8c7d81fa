"""What a user of the package writes: ``mypy --strict`` has nothing to report, and it runs."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import assert_type

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs, make_topic_documents
from skparse.feature_extraction import WordVectors, WordVectorVectorizer, load_word_vectors
from skparse.inspection import (
    Explanation,
    ExplanationDisplay,
    TopFeatures,
    explain,
    feature_contributions,
    feature_importances,
    top_features,
)
from skparse.model_selection import TopKSearchCV
from skparse.nn import (
    NestedTopK,
    SparseExpertFeedForward,
    SparseExpertNetwork,
    expert_usage,
    replace_feed_forward,
    set_top_k,
)
from skparse.nn.functional import SparseActivation, topk_softmax
from skparse.onnx import to_onnx
from skparse.plotting import ExpertUsageDisplay, LossCurveDisplay, SparsityPathDisplay

Numbers = NDArray[np.floating]


def classify() -> SparseExpertClassifier:
    X, y = make_topic_documents(200, 100, 8, n_classes=4, random_state=0, return_X_y=True)
    model = SparseExpertClassifier(
        n_experts="auto",
        top_k=4,
        class_weight={0: 2, 1: 1.0},
        random_state=np.random.RandomState(0),
    )
    assert_type(model.fit(X, y), SparseExpertClassifier)
    model.partial_fit(X[:50], y[:50], sample_weight=np.ones(50))
    assert_type(model.predict_proba(X), Numbers)
    assert_type(model.predict_proba_path(X, [1, 2]), Numbers)
    assert_type(model.compress("int8", X=X), SparseExpertClassifier)
    rows = [[0.0, 1.0], [1.0, 0.0]]
    SparseExpertClassifier().fit(rows, ["a", "b"]).predict(pd.DataFrame(rows))
    SparseExpertClassifier().fit(sparse.coo_matrix(rows), ("a", "b")).decision_function(rows)
    return model


def search_and_explain() -> Pipeline:
    bunch = load_api_docs(min_samples_per_class=200)
    texts, labels = bunch.data[::8], bunch.target_names[bunch.target][::8]
    pipeline = make_pipeline(TfidfVectorizer(), SparseExpertClassifier(random_state=0))
    search = TopKSearchCV(pipeline, top_ks=[1, 2], cv=2, selection="best").fit(texts, labels)
    assert_type(search, TopKSearchCV)
    assert_type(search.predict_proba(texts[:2]), Numbers)
    assert_type(search.score(texts[:2], labels[:2]), float)
    best: Pipeline = search.best_estimator_
    assert_type(explain(best, texts[:2]), list[Explanation])
    assert_type(top_features(best, by="class"), list[TopFeatures])
    assert_type(feature_importances(best), Numbers)
    print(feature_contributions(best, texts[:2], of="class").shape)
    for explanation in explain(best, texts[:1], n_features=3):
        print(
            explanation.predicted, [f"{f.name} {f.to_predicted:.2f}" for f in explanation.features]
        )
    assert_type(ExplanationDisplay.from_estimator(best, texts[0]), ExplanationDisplay)
    assert_type(SparsityPathDisplay.from_cv_results(search.cv_results_), SparsityPathDisplay)
    ExpertUsageDisplay.from_estimator(best, max_labels=10).plot()
    LossCurveDisplay.from_estimator(best)
    return best


def read_word_vectors() -> Numbers:
    with TemporaryDirectory() as folder:
        path = Path(folder, "vectors.txt")
        path.write_text("red 1.0 0.0\nblue 0.8 0.6\n")
        words, vectors = load_word_vectors(path, vocabulary={"red", "blue"})
    assert_type(words, list[str])
    vectorizer = WordVectorVectorizer(WordVectors(words, vectors), weighting="idf")
    return vectorizer.fit_transform(["red and blue", "blue"])


def train_a_network(classifier: SparseExpertClassifier) -> SparseExpertClassifier:
    layer = torch.nn.TransformerEncoderLayer(8, nhead=2, batch_first=True)
    model = replace_feed_forward(layer, lambda first, second: SparseExpertFeedForward(8, 16, 4))
    assert_type(set_top_k(model, 2), torch.nn.TransformerEncoderLayer)
    NestedTopK(model, n_steps=10, top_ks=(1, 2)).step()
    assert_type(expert_usage(model, [torch.ones(1, 3, 8)]), dict[str, torch.Tensor])
    assert_type(topk_softmax(torch.ones(2, 4), 2), SparseActivation)
    network = SparseExpertNetwork.from_estimator(classifier)
    assert_type(network.route(torch.ones(1, 100)).to_dense(network.n_experts), torch.Tensor)
    return network.to_estimator(classifier)


if __name__ == "__main__":
    train_a_network(classify())
    graph = to_onnx(search_and_explain(), target_opset=18)
    Path("model.onnx").write_bytes(graph.SerializeToString())
    print(read_word_vectors().shape)
