"""Turn results of experts.py into a page for the documentation.

python examples/benchmarks/experts_page.py docs/experts.json docs/experts.md
"""

import json
import sys
from pathlib import Path

from report import as_markdown, in_units_of

OURS, ONE = "SparseExpertClassifier", "one expert per class"
TOP_KS = (1, 2, 4, 8, 16)
PEERS = ("MLPClassifier", "LogisticRegression", "LinearSVC")

# Key of a figure, its heading with the name of the model in it, and how it is written.
ACCURACY = (("accuracy", "{}", "{:.3f}".format), ("fit_s", "fit s", "{:.3g}".format))
COSTS = (("model_bytes", "{}: MB", in_units_of(1e6)), ("predict_us", "µs", in_units_of(1)))

PREFACE = """
This page is written by `examples/benchmarks/experts_page.py` from the results of
`examples/benchmarks/experts.py`; do not edit it. The head of that file has the command. All models
have their defaults, but for the seed and what is named. All results are here, none is left out.
Accuracies differ by chance: half a point on a few thousand test samples, and more on fewer.

- **fit s**: CPU seconds of a fit, without the compilation of the first fit on a machine. CPU
  time hardly depends on what else a machine does.
- **MB**: size of the pickled model, with its scaler if there is one.
- **µs**: CPU time of `predict` on all test samples, in microseconds per sample.
- **experts**: `n_experts_` of `SparseExpertClassifier()`.
- **minus best peer**: accuracy of `SparseExpertClassifier()` minus the best of the models of
  scikit-learn, in points (hundredths).
"""
SECTIONS = {
    "tables": (
        "Tables",
        "Means of five stratified folds. The columns are standardised for all models. "
        "`MLPClassifier` has 100 hidden units and at most 1,000 epochs, `LogisticRegression` at "
        "most 1,000 iterations. The made tables have 1,000 rows.",
    ),
    "embeddings": (
        "Sentence embeddings",
        "The texts of Banking77 and CLINC150 as vectors of 384 numbers, scored on the test part, "
        "with the models of the tables. *In 10 groups* means that the classes are merged at "
        "random, so that a class has several topics.",
    ),
    "texts": (
        "Texts with TF-IDF",
        "Scored on the test part. *One expert per class* is `n_experts` = number of classes. "
        "*8 per class* is fitted for up to 23 classes. Where `SparseExpertClassifier()` has "
        "more experts than classes, the trial in its fit has chosen them.",
    ),
    "levels": (
        "Accuracy at every K",
        "Accuracy on test samples, of one fit with `top_k=16`. The chosen K is that of "
        "`TopKSearchCV` with three folds of the training samples. Of circles and XOR one half is "
        "the training part.",
    ),
}


def tabulate(fits_of, columns):
    """Return heading and texts: a row per data set, and for each model all columns."""
    titles = list(dict.fromkeys(title for fits in fits_of.values() for title in fits))
    cells = [["data", *(heading.format(t) for t in titles for _, heading, _ in columns)]]
    for name, fits in fits_of.items():
        cells.append([name])
        for title in titles:
            figures = fits.get(title)
            cells[-1] += [write(figures[key]) if figures else "-" for key, _, write in columns]
    return cells


def append_column(cells, heading, texts):
    """Return the cells with one more column."""
    return [[*row, text] for row, text in zip(cells, [heading, *texts], strict=True)]


def compare(fits_of, others):
    """Return the accuracy of ours minus the best of the others, in rounded points."""
    differences = []
    for fits in fits_of.values():
        best = max(fits[title]["accuracy"] for title in others if title in fits)
        # Adding zero turns -0.0 into 0.0.
        differences.append(round(100 * (fits[OURS]["accuracy"] - best), 1) + 0.0)
    return differences


def count(differences, other):
    """Return a sentence that counts the differences above and below zero."""
    more = sum(difference > 0 for difference in differences)
    less = sum(difference < 0 for difference in differences)
    equal = len(differences) - more - less
    return f"Against {other}: more accurate on {more} rows, less on {less}, equal on {equal}."


def data_section(fits_of):
    """Return the parts of a section that compares models."""
    differences = compare(fits_of, PEERS)
    accuracy = tabulate(fits_of, ACCURACY)
    accuracy = append_column(accuracy, "minus best peer", map("{:+.1f}".format, differences))
    parts = [as_markdown(accuracy), count(differences, "the best peer")]
    if all(ONE in fits for fits in fits_of.values()):
        parts.append(count(compare(fits_of, [ONE]), "one expert per class"))
    experts = [f"{fits[OURS]['n_experts']:.0f}" for fits in fits_of.values()]
    return [*parts, as_markdown(append_column(tabulate(fits_of, COSTS), "experts", experts))]


def level_section(rows):
    """Return the parts of the section on K."""
    cells = [["data", *(f"K = {k}" for k in TOP_KS), "chosen K"]]
    for name, row in rows.items():
        cells.append([name, *map("{:.3f}".format, row["levels"]), str(row["chosen"])])
    return [as_markdown(cells)]


def build_page(results):
    """Return the page for the documentation."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    conditions = [
        f"- Machine: {machine['processor']}, {machine['cores']} cores, {machine['system']}; one "
        "thread",
        f"- Versions: Python {machine['python']}, {versions}",
        f"- Seed {results['seed']}; date {machine['date']}",
    ]
    parts = ["# What experts are good for", PREFACE.strip(), "\n".join(conditions)]
    for key, (heading, text) in SECTIONS.items():
        rows, section = results[key], level_section if key == "levels" else data_section
        parts += [f"## {heading}", text, *(section(rows) if rows else ["Not run: no data."])]
    if results["skipped"]:
        missing = [f"- {name}: {reason}" for name, reason in results["skipped"].items()]
        parts += ["## Not run", "\n".join(missing)]
    return "\n\n".join(parts) + "\n"


def main(results_file, page_file):
    """Write the page."""
    results = json.loads(Path(results_file).read_text(encoding="utf-8"))
    Path(page_file).write_text(build_page(results), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
