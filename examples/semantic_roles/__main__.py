"""Train, evaluate and use a labeller of semantic roles: ``python -m examples.semantic_roles``."""

import argparse
import pickle
import sys
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.svm import LinearSVC

from skparse import SparseExpertClassifier

from .drawing import draw_sentence
from .labeller import TOP_KS, CandidateLabeller, TagLabeller, top_features
from .scoring import score_arguments
from .sentences import read_sentences

HAND_MADE = Path(__file__).with_name("sentences.conllup")
PEERS = {
    "SparseExpertClassifier": SparseExpertClassifier(random_state=0),
    "SGDClassifier, log_loss": SGDClassifier(loss="log_loss", alpha=1e-6, random_state=0),
    "LinearSVC": LinearSVC(random_state=0),
}
METHODS = {"candidates": CandidateLabeller, "tags": TagLabeller}


def main(arguments=None):
    """Run one command."""
    options = build_parser().parse_args(arguments)
    options.run(options)


def build_parser():
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.semantic_roles", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def add(name, run, text):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    train = add("train", run_train, "Train a labeller and save it.")
    train.add_argument("model", type=Path, help="the file to write")
    train.add_argument("--train", type=Path, default=HAND_MADE, help="sentences with arguments")
    train.add_argument("--method", choices=METHODS, default="candidates")
    train.add_argument("--no-syntax", action="store_true", help="tags: use words and tags only")
    evaluate = add("evaluate", run_evaluate, "Score a saved labeller.")
    evaluate.add_argument("model", type=Path)
    evaluate.add_argument("--test", type=Path, default=HAND_MADE, help="sentences with arguments")
    label = add("label", run_label, "Print the arguments of parsed sentences.")
    label.add_argument("model", type=Path)
    label.add_argument("--sentences", type=Path, default=HAND_MADE)
    label.add_argument("--picture", type=Path, help="draw a sentence to a file")
    label.add_argument("--number", type=int, default=1, help="of the sentence to draw")
    features = add(
        "features", run_features, "Print the features with the largest weights for a role."
    )
    features.add_argument("model", type=Path, help="a model of the method candidates")
    features.add_argument("role", help="such as ARG0")
    features.add_argument("--sentences", type=Path, default=HAND_MADE, help="give the names")
    compare = add("compare", run_compare, "Fit several classifiers to the same rows; score them.")
    compare.add_argument("--train", type=Path, default=HAND_MADE)
    compare.add_argument("--test", type=Path, default=HAND_MADE)
    compare.add_argument("--classifiers", nargs="+", choices=PEERS, default=list(PEERS))
    return parser


def run_train(options):
    """Train a labeller and save it."""
    sentences = read_sentences(options.train)
    labeller = METHODS[options.method](report=report)
    if options.method == "tags":
        labeller.set_params(syntax=not options.no_syntax)
    start = time.perf_counter()
    labeller.fit(sentences).save(options.model)
    size = options.model.stat().st_size / 1e6
    print(f"{time.perf_counter() - start:.1f} s; {options.model} has {size:.1f} MB")


def run_evaluate(options):
    """Print the scores of a saved labeller."""
    sentences, labeller = read_sentences(options.test), joblib.load(options.model)
    labelled, unlabelled, by_role = score_arguments(
        labeller.set_params(report=report).predict(sentences), gold_arguments(sentences)
    )
    print(f"{'':12} {'gold':>6} {'precision':>10} {'recall':>8} {'F1':>8}")
    for name, score in {"all": labelled, "unlabelled": unlabelled, **by_role}.items():
        print(
            f"{name:12} {score.n_gold:6} {100 * score.precision:10.2f} "
            f"{100 * score.recall:8.2f} {100 * score.f1:8.2f}"
        )


def run_label(options):
    """Print the arguments of sentences, and draw one of them if asked for."""
    sentences, labeller = read_sentences(options.sentences), joblib.load(options.model)
    results = iter(labeller.predict(sentences))
    for number, sentence in enumerate(sentences, start=1):
        print(" ".join(sentence.tokens))
        arguments = [next(results) for _ in sentence.predicates]
        for predicate, found in zip(sentence.predicates, arguments, strict=True):
            parts = [f"[{a.role} {' '.join(sentence.tokens[a.start : a.end])}]" for a in found]
            print(f"    {predicate.roleset}: {' '.join(parts)}")
        if options.picture and number == options.number:
            draw_sentence(sentence, arguments).savefig(options.picture)


def run_features(options):
    """Print the features of a role with their weights."""
    labeller, sentences = joblib.load(options.model), read_sentences(options.sentences)
    for name, weight in top_features(labeller, sentences, options.role):
        print(f"{weight:8.3f}  {name}")


def run_compare(options):
    """Print a row for each classifier: accuracy, F1, seconds, bytes."""
    train, test = read_sentences(options.train), read_sentences(options.test)
    start = time.perf_counter()
    base = CandidateLabeller(report=report)
    rows, test_rows = base.extract(train), base.extract(test)
    seconds = time.perf_counter() - start
    n_rows, n_features = rows.X.shape[0], rows.X.nnz / max(rows.X.shape[0], 1)
    print(
        f"{len(rows.predicates)} predicates, {n_rows} candidates, {n_features:.0f} features each"
    )
    print(f"features of both parts: {seconds:.1f} s")
    print(f"{'':30} {'accuracy':>8} {'F1':>6} {'unlabelled':>10} {'fit s':>7} {'MB':>6}")
    for name in options.classifiers:
        start = time.perf_counter()
        labeller = CandidateLabeller(PEERS[name]).fit_rows(train, rows)
        seconds = time.perf_counter() - start
        gold = CandidateLabeller().targets(test, test_rows)
        size = len(pickle.dumps(labeller.classifier_)) / 1e6
        variants = {name: TOP_KS}
        if isinstance(labeller.classifier_, SparseExpertClassifier):
            variants = {f"{name}, mean": TOP_KS}
            variants |= {f"{'':4}K = {top_k}": (top_k,) for top_k in (1, 2, 4, 8)}
        for title, top_ks in variants.items():
            labeller.set_params(top_ks=top_ks)
            probabilities = labeller.probabilities(test_rows)
            right = np.array(labeller.classes_)[probabilities.argmax(axis=1)] == gold
            found = labeller.decode(test, test_rows, probabilities)
            labelled, unlabelled, _ = score_arguments(found, gold_arguments(test))
            print(
                f"{title:30} {100 * right.mean():8.2f} {100 * labelled.f1:6.2f} "
                f"{100 * unlabelled.f1:10.2f} {seconds:7.1f} {size:6.1f}",
                flush=True,
            )


def gold_arguments(sentences):
    """Return the arguments of every predicate of all sentences."""
    return [predicate.arguments for sentence in sentences for predicate in sentence.predicates]


def report(n_done, n_all):
    """Print the progress of the features on a line of the terminal."""
    if sys.stderr.isatty():
        end = "\n" if n_done == n_all else ""
        print(f"\rfeatures of {n_done} of {n_all} sentences", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
