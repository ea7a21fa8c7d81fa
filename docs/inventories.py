"""Links to the documentation of other packages, without a network at the time of the build.

Each package has a page per name. So an inventory of intersphinx is made of the names that are used
here, in texts and in the code of the examples. A name that is missing in a text is a warning, one
in the code of an example is shown without a link.
"""

import zlib

PACKAGES = {
    "scikit-learn": (
        "https://scikit-learn.org/stable/",
        "modules/generated/{name}.html#{name}",
        {
            "class": [
                "sklearn.callback.ScoringMonitor",
                "sklearn.compose.ColumnTransformer",
                "sklearn.decomposition.TruncatedSVD",
                "sklearn.feature_extraction.text.CountVectorizer",
                "sklearn.feature_extraction.text.HashingVectorizer",
                "sklearn.feature_extraction.text.TfidfTransformer",
                "sklearn.feature_extraction.text.TfidfVectorizer",
                "sklearn.feature_selection.SelectFromModel",
                "sklearn.impute.SimpleImputer",
                "sklearn.inspection.DecisionBoundaryDisplay",
                "sklearn.linear_model.LogisticRegression",
                "sklearn.linear_model.SGDClassifier",
                "sklearn.manifold.TSNE",
                "sklearn.model_selection.GridSearchCV",
                "sklearn.model_selection.HalvingGridSearchCV",
                "sklearn.model_selection.StratifiedKFold",
                "sklearn.model_selection.TunedThresholdClassifierCV",
                "sklearn.multiclass.OneVsRestClassifier",
                "sklearn.neighbors.KNeighborsClassifier",
                "sklearn.neural_network.MLPClassifier",
                "sklearn.pipeline.FeatureUnion",
                "sklearn.pipeline.Pipeline",
                "sklearn.preprocessing.MultiLabelBinarizer",
                "sklearn.preprocessing.Normalizer",
                "sklearn.preprocessing.OneHotEncoder",
                "sklearn.preprocessing.StandardScaler",
                "sklearn.svm.LinearSVC",
                "sklearn.utils.Bunch",
            ],
            "function": [
                "sklearn.datasets.fetch_20newsgroups",
                "sklearn.datasets.get_data_home",
                "sklearn.metrics.make_scorer",
                "sklearn.model_selection.cross_val_predict",
                "sklearn.model_selection.cross_val_score",
                "sklearn.model_selection.train_test_split",
                "sklearn.pipeline.make_pipeline",
                "sklearn.pipeline.make_union",
            ],
        },
    ),
    "numpy": (
        "https://numpy.org/doc/stable/",
        "reference/generated/{name}.html#{name}",
        {
            "function": [
                "numpy.argsort",
                "numpy.bincount",
                "numpy.flatnonzero",
                "numpy.isin",
                "numpy.linspace",
                "numpy.quantile",
                "numpy.unique",
            ],
        },
    ),
    "scipy": (
        "https://docs.scipy.org/doc/scipy/",
        "reference/generated/{name}.html#{name}",
        {"class": ["scipy.sparse.csr_array"]},
    ),
    "joblib": (
        "https://joblib.readthedocs.io/en/stable/",
        "generated/{name}.html#{name}",
        {"class": ["joblib.parallel_config"]},
    ),
    "torch": (
        "https://docs.pytorch.org/docs/stable/",
        "generated/{name}.html#{name}",
        {"function": ["torch.softmax"], "class": ["torch.nn.Module"]},
    ),
}


def write_inventories(folder):
    """Write an inventory per package; returns the mapping that intersphinx takes."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for package, (address, page, names_of) in PACKAGES.items():
        lines = [
            f"{name} py:{kind} 1 {page.format(name=name)} -\n"
            for kind, names in names_of.items()
            for name in names
        ]
        head = (
            f"# Sphinx inventory version 2\n# Project: {package}\n# Version: stable\n"
            "# The remainder of this file is compressed using zlib.\n"
        )
        path = folder / f"{package}.inv"
        path.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
        mapping[package] = address, str(path)
    return mapping
