"""
Tune with successive halving and with Optuna
============================================

`top_k` together with `n_experts` and `weight_density`: first with scikit-learn's
:class:`~sklearn.model_selection.HalvingGridSearchCV`, which fits every candidate, then with
`Optuna <https://optuna.org>`_, which the extra ``optuna`` installs. There every trial is a
:class:`~skparse.model_selection.TopKSearchCV`: as one fit serves every K, `top_k` need
not be among the parameters that are searched.
"""

import matplotlib.pyplot as plt
import numpy as np

# HalvingGridSearchCV can be imported only after this.
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import HalvingGridSearchCV, train_test_split

from skparse import SparseExpertClassifier
from skparse.datasets import load_api_docs
from skparse.model_selection import TopKSearchCV

docs = load_api_docs()
text_train, text_test, y_train, y_test = train_test_split(
    docs.data, docs.target_names[docs.target], stratify=docs.target, random_state=0
)
vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32)
X_train, X_test = vectorizer.fit_transform(text_train), vectorizer.transform(text_test)

# %%
# Successive halving
# ------------------
# All candidates start with a part of the texts, the better half goes on with twice as many.

halving = HalvingGridSearchCV(
    SparseExpertClassifier(random_state=0),
    {"top_k": [1, 4, 16], "n_experts": ["auto", 92], "weight_density": ["auto", 0.02]},
    cv=3,
    factor=2,
    min_resources=600,
    random_state=0,
)
halving.fit(X_train, y_train)
print(f"halving: {halving.best_params_}, accuracy {halving.score(X_test, y_test):.3f}")

# %%
# Optuna
# ------
# A trial draws `n_experts` and `weight_density`; the search inside it finds `top_k`.

try:
    import optuna
except ImportError:
    raise SystemExit(
        'The rest of this example needs Optuna, the extra "optuna": pip install "skparse[optuna]".'
    ) from None


def cross_validate(trial):
    classifier = SparseExpertClassifier(
        n_experts=trial.suggest_int("n_experts", 23, 230, log=True),
        weight_density=trial.suggest_float("weight_density", 0.005, 0.2, log=True),
        random_state=0,
    )
    search = TopKSearchCV(classifier, cv=3, scoring="neg_log_loss", refit=False)
    search.fit(X_train, y_train)
    trial.set_user_attr("top_k", search.top_k_)
    return search.best_score_


optuna.logging.set_verbosity(optuna.logging.WARNING)
sampler = optuna.samplers.TPESampler(n_startup_trials=5, seed=0)
study = optuna.create_study(direction="maximize", sampler=sampler)
study.optimize(cross_validate, n_trials=10)
top_k = study.best_trial.user_attrs["top_k"]
classifier = SparseExpertClassifier(top_k=32, random_state=0, **study.best_params)
classifier.fit(X_train, y_train).set_params(top_k=top_k)
best = ", ".join(f"{name} = {value:.3g}" for name, value in study.best_params.items())
print(f"Optuna: {best}, top_k = {top_k}, log loss {-study.best_value:.3f}, "
      f"accuracy {classifier.score(X_test, y_test):.3f}")  # fmt: skip

# %%
# The trials: few weights per expert cost most, and the number of experts matters little.

trials = study.trials_dataframe()
x, y = trials["params_n_experts"], trials["params_weight_density"]
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
points = axes.scatter(x, y, c=-trials["value"], s=80)
for place, top_k in zip(zip(x, y, strict=True), trials["user_attrs_top_k"], strict=True):
    axes.annotate(f"K = {top_k}", place, xytext=(7, -3), textcoords="offset points")
axes.set(xscale="log", yscale="log", xlabel="n_experts", ylabel="weight_density")
axes.set(xlim=(20, 320), xticks=[25, 50, 100, 200], xticklabels=[25, 50, 100, 200])
axes.minorticks_off()
figure.colorbar(points, label="log loss, cross-validated")
plt.show()
