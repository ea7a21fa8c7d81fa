"""Measure what choosing K costs and what it gives away.

    python examples/benchmarks/choosing_k.py --data banking77 20newsgroups-stripped
    python examples/benchmarks/choosing_k.py --data banking77 --resamples 20

For every data set: seconds of `TopKSearchCV` over six K with five folds, against six
plain fits and against `GridSearchCV` over the same grid, and the test accuracy of the chosen K
beside the best K's. With ``--resamples`` the choice is repeated on random parts of the training
rows, and the regret (test accuracy of the best K minus that of the chosen one) is averaged. All
runs use one thread.
"""

import argparse
import time

import numpy as np
from corpora import CORPORA
from problems import build_problem
from sklearn.model_selection import GridSearchCV, ShuffleSplit

from skparse import SparseExpertClassifier
from skparse.model_selection import TopKSearchCV

TOP_KS = (1, 2, 4, 8, 16, 32)


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", choices=CORPORA, default=["banking77"])
    parser.add_argument("--n-experts", type=int, help="default: one per class")
    parser.add_argument("--resamples", type=int, default=0, help="random parts, default: none")
    parser.add_argument("--share", type=float, default=0.8, help="of the rows in each part")
    parser.add_argument("--grid", action="store_true", help="time GridSearchCV as well")
    parser.add_argument("--separate", action="store_true", help="compare with a fit for each K")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def seconds_of(call):
    """Return the seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def accuracies_at(classifier, part):
    """Return the accuracy of a fitted classifier on a part at every K."""
    chosen = classifier.top_k
    scores = [classifier.set_params(top_k=k).score(part.X, part.y) for k in TOP_KS]
    classifier.set_params(top_k=chosen)
    return np.array(scores)


def report_choice(name, problem, parameters, with_grid, with_separate):
    """Print what the choice costs, and the accuracy of every K on the test rows."""
    X, y = problem.train.X, problem.train.y
    classifier = SparseExpertClassifier(top_k=max(TOP_KS), **parameters)
    search = TopKSearchCV(SparseExpertClassifier(**parameters), top_ks=TOP_KS, cv=5)
    classifier.fit(X[:500], y[:500]).predict(X[:5])  # compiles
    # Plain fits before and after: what else the machine does weighs alike.
    plain = [seconds_of(lambda: classifier.fit(X, y))[0] for _ in range(3)]
    seconds, _ = seconds_of(lambda: search.fit(X, y))
    plain += [seconds_of(lambda: classifier.fit(X, y))[0] for _ in range(3)]
    test = accuracies_at(search.best_estimator_, problem.test)
    chosen = test[search.best_index_]
    best = int(np.argmin(search.cv_results_["rank_test_score"]))
    print(f"\n{name}: {X.shape[0]} rows, {problem.n_classes} classes, "
          f"{search.best_estimator_.n_experts_} experts")  # fmt: skip
    print(f"  six plain fits {sum(plain):.2f} s, search {seconds:.2f} s, "
          f"ratio {seconds / sum(plain):.2f}")  # fmt: skip
    score_seconds = search.cv_results_["mean_score_time"].sum() * search.n_splits_
    print(f"  of which scoring all K {score_seconds:.2f} s")
    if with_grid:
        grid = GridSearchCV(SparseExpertClassifier(**parameters), {"top_k": TOP_KS}, cv=5)
        print(f"  GridSearchCV {seconds_of(lambda: grid.fit(X, y))[0]:.2f} s")
    print(f"  chosen K {search.top_k_}, best mean score at {TOP_KS[best]}")
    print(f"  test accuracy {_row(test)}: chosen {100 * chosen:.2f}, best {100 * test.max():.2f}")
    print(f"  cross-validated {_row(search.cv_results_['mean_test_score'])}")
    if with_separate:
        fits = [SparseExpertClassifier(top_k=k, **parameters).fit(X, y) for k in TOP_KS]
        apart = np.array([fit.score(problem.test.X, problem.test.y) for fit in fits])
        print(f"  a fit for each K {_row(apart)}: mean {100 * (test - apart).mean():+.2f} nested")


def report_regret(name, problem, parameters, n_resamples, share):
    """Print mean regret and chosen K over random parts of the training rows."""
    X, y = problem.train.X, problem.train.y
    splitter = ShuffleSplit(n_resamples, train_size=share, random_state=parameters["random_state"])
    rows = {"one_standard_error": [], "best": []}
    for part, _ in splitter.split(X):
        search = TopKSearchCV(SparseExpertClassifier(**parameters), top_ks=TOP_KS)
        search.fit(X[part], y[part])
        test = accuracies_at(search.best_estimator_, problem.test)
        best = int(np.argmin(search.cv_results_["rank_test_score"]))
        for rule, index in zip(rows, (search.best_index_, best), strict=True):
            rows[rule].append((TOP_KS[index], 100 * (test.max() - test[index])))
    print(f"\n{name}: {n_resamples} parts of {share:.0%} of the training rows")
    for rule, pairs in rows.items():
        top_ks, regrets = np.array(pairs).T
        print(f"  {rule:18} mean K {top_ks.mean():5.2f}, regret mean {regrets.mean():.3f}, "
              f"largest {regrets.max():.2f} points")  # fmt: skip


def _row(scores):
    return " ".join(f"{100 * score:.2f}" for score in scores)


def main():
    """Run what the command line asks for."""
    options = parse_arguments()
    parameters = {"random_state": options.seed, "n_experts": options.n_experts or "auto"}
    for name in options.data:
        problem = build_problem(CORPORA[name](), "float32", options.seed)
        report_choice(name, problem, parameters, options.grid, options.separate)
        if options.resamples:
            report_regret(name, problem, parameters, options.resamples, options.share)


if __name__ == "__main__":
    main()
