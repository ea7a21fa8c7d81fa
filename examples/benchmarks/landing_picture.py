"""Draw the picture of the README and of the first page of the documentation.

python examples/benchmarks/landing_picture.py
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs
from skparse.inspection import ExplanationDisplay

TEXT = "Solve a sparse system of linear equations and return the error of the solution."
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "explanation.svg"


def main():
    mpl.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "skparse"})
    docs = load_api_docs()
    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english", dtype=np.float32)
    model = make_pipeline(vectorizer, SparseExpertClassifier(random_state=0))
    model.fit(docs.data, docs.target_names[docs.target])
    display = ExplanationDisplay.from_estimator(model, TEXT, n_features=6)
    display.figure_.savefig(PICTURE, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
