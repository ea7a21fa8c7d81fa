"""A pipeline through MLflow: logged with skops, loaded as a model of scikit-learn and of Python.

Needs mlflow or mlflow-skinny: pip install -c constraints.txt -e ".[checks]"
"""

import mlflow
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs

TRUSTED = ["skparse._classifier.SparseExpertClassifier"]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Keep runs in files, which mlflow-skinny can without a database."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())


@pytest.mark.filterwarnings("default")  # those of MLflow itself
@pytest.mark.parametrize("several_labels", [False, True])
def test_a_logged_pipeline_comes_back(runs, several_labels):
    texts, labels = load_api_docs(return_X_y=True)
    if several_labels:
        labels = np.stack([labels < 5, labels % 2 == 0], axis=1).astype(int)
    vectorizer = TfidfVectorizer(dtype=np.float32)
    pipeline = make_pipeline(vectorizer, SparseExpertClassifier(random_state=0))
    pipeline.fit(texts[::4], labels[::4])
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(
            pipeline, name="classifier", serialization_format="skops", skops_trusted_types=TRUSTED
        )
    restored = mlflow.sklearn.load_model(info.model_uri)
    held_out = list(texts[1:400:4])
    assert_array_equal(restored.predict_proba(held_out), pipeline.predict_proba(held_out))
    served = mlflow.pyfunc.load_model(info.model_uri)
    assert_array_equal(served.predict(held_out), pipeline.predict(held_out))
