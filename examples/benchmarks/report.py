"""Turn results of compare.py into two pages for the documentation, with two pictures.

python examples/benchmarks/report.py docs/benchmarks.json docs/benchmarks.md

writes docs/benchmarks.md (pictures, then tables), docs/benchmarks_sets.md (every data set), and
the pictures beside them.
"""

import json
import statistics
import sys
from collections import namedtuple
from pathlib import Path

from peers import MODELS, OURS
from picture import draw_differences, draw_figure

AT_ONE = f"{OURS} top_k=1"

# A column of the tables: key of a result, heading, function that writes a value, and min or max
# for the best one.
Column = namedtuple("Column", "key heading write best")


def in_units_of(unit):
    """Return a function that writes a number in a unit, with three significant digits."""

    def write(value):
        value = value / unit
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

    return write


def in_points(interval):
    """Write a difference with its interval, in points: hundredths."""
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * end for end in interval))


COLUMNS = (
    Column("score", "score", "{:.4f}".format, max),
    Column("score_difference", "minus ours, points", in_points, None),
    Column("macro_f1", "macro-F1", "{:.4f}".format, max),
    Column("macro_f1_difference", "minus ours, points", in_points, None),
    Column("log_loss", "log-loss", "{:.3f}".format, min),
    Column("ece", "ECE", "{:.3f}".format, min),
    Column("fit_s", "fit s", in_units_of(1), min),
    Column("predict_us", "predict µs", in_units_of(1), min),
    Column("predict_proba_us", "proba µs", in_units_of(1), min),
    Column("predict_one_us", "one row µs", in_units_of(1), min),
    Column("predict_proba_one_us", "one row proba µs", in_units_of(1), min),
    Column("model_bytes", "model MB", in_units_of(1e6), min),
    Column("fit_peak_bytes", "fit peak MB", in_units_of(1e6), min),
)

MEANING = """\
- **score**: accuracy on the test part, or micro-F1 where a sample has several labels.
- **minus ours, points**: the score of the model minus that of `SparseExpertClassifier()`, in
  hundredths, with the 95 % interval of a paired bootstrap over the test rows (1,000 resamples).
- **log-loss, ECE**: of `predict_proba`. ECE is the expected calibration error over 15 bins.
  Probabilities are scaled to sum to one and clipped at 1e-7, so that an exact zero has a finite
  log-loss.
- **fit s**: median over the repeats. X is given, and the process has fitted a tiny problem before,
  so that imports and compilation are not included. For tuned models it is the fit with the chosen
  parameters; the time of the search is in the notes.
- **predict µs, proba µs**: microseconds per row, all test rows in one call, median over the
  repeats. **one row µs**: microseconds of a call with one row, median over 200 rows. What the
  package itself returns is timed. napkinXC and fastText return lists, and their `predict` returns
  the best label only.
- **model MB**: `joblib.dump` of the fitted estimator, not compressed. For fastText and napkinXC,
  the files that they write.
- **fit peak MB**: the peak memory of the process during fit minus its memory before, with X
  loaded: copies of X, working memory and the model itself.
"""


def title_of(row):
    """Return the name of a model, with the top_k it predicts with."""
    return f"{row['model']} {row['reading']}".strip()


def format_cells(rows):
    """Return the heading and a list of texts per row, without the columns that have no value."""
    columns = [c for c in COLUMNS if any(row.get(c.key) is not None for row in rows)]
    cells = [["model", *(column.heading for column in columns)]]
    for row in rows:
        values = ((column, row.get(column.key)) for column in columns)
        texts = ["-" if value is None else column.write(value) for column, value in values]
        cells.append([title_of(row), *texts])
    return cells


def as_text(cells):
    """Return cells as aligned plain text."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        padded = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *padded]))
    return "\n".join(lines)


def as_markdown(cells):
    """Return cells as a Markdown table, with numbers aligned to the right."""
    heading, *body = ("| " + " | ".join(row) + " |" for row in cells)
    return "\n".join([heading, "|---|" + "---:|" * (len(cells[0]) - 1), *body])


def describe_data_set(facts):
    """Return one line on the size of a data set."""
    return (
        f"{facts['n_train']:,} training rows, {facts['n_test']:,} test rows, "
        f"{facts['n_features']:,} features, {facts['nonzeros_per_row']:.1f} nonzeros per row "
        f"(X {facts['X_bytes'] / 1e6:,.1f} MB), {facts['n_classes']:,} classes; "
        f"score: {facts['metric']}."
    )


def note_lines(rows):
    """Return a note on each row: search, epochs, failures."""
    lines = []
    for row in rows:
        if "failed" in row:
            lines.append(f"{row['model']}: {row['failed']}")
        elif not row["reading"]:
            lines.append(f"{row['model']}: {'; '.join(facts_of(row))}")
    return lines


def facts_of(row):
    """Return the search, the epochs and the fitted settings of a row."""
    facts, details = [], dict(row["details"])
    params = details.pop("params", None)
    if row["search_s"] > 0.01:  # without a search it is almost zero
        facts.append(f"{params} chosen in {row['search_s']:.1f} s")
    if "epoch_s" in row:
        facts.append(f"{row['epoch_s']:.3g} s per epoch")
    facts += [
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in details.items()
    ]
    facts.append(f"{len(row['fit_s_each'])} fits timed")
    facts.append(f"{row['warm_up_s']:.1f} s for the first tiny fit")
    return facts


def format_data_set(name, facts, rows):
    """Return the plain-text report on one data set."""
    if "missing" in facts:
        return f"\n{name}: missing, not run: {facts['missing']}"
    ran = [row for row in rows if "failed" not in row]
    lines = [f"\n{name}: {describe_data_set(facts)}", as_text(format_cells(ran))]
    return "\n".join([*lines, *("  " + note for note in note_lines(rows))])


def rows_by_title(results, data):
    """Return the rows of a data set that ran, by title."""
    rows = (row for row in results["results"] if row["data"] == data and "failed" not in row)
    return {title_of(row): row for row in rows}


def best_peer(rows, candidates):
    """Return the row of the most accurate candidate that ran."""
    ran = [row for row in rows.values() if row["model"] in candidates]
    return max(ran, key=lambda row: row["score"], default=None)


def tuned_peers(facts):
    """Return the names of the tuned linear peers and, for many classes, of the label trees."""
    trees = {"napkinXC-PLT", "napkinXC-HSM"} if facts["n_classes"] >= 50 else set()
    return trees | {name for name in MODELS if name.endswith("-cv")}


def verdict(interval):
    """Return win, loss or level for an interval of (peer minus ours)."""
    _, low, high = interval
    return "win" if high < 0 else "loss" if low > 0 else "level"


def accuracy_table(results, choose):
    """Return a row per data set: ours at its default and at K=1, the best peer, the verdict.

    `choose` takes the facts of a data set and returns the names of the candidate peers. The last
    row holds the means.
    """
    heading = ["data", "ours", "ours at K=1", "best peer", "its score", "ours minus its, points"]
    cells, scores = [[*heading, "verdict"]], []
    for data, facts in results["data"].items():
        rows = rows_by_title(results, data)
        peer = best_peer(rows, choose(facts)) if OURS in rows else None
        if peer:
            scores.append([rows[OURS]["score"], rows[AT_ONE]["score"], peer["score"]])
            ours, at_one, theirs = map("{:.4f}".format, scores[-1])
            middle, low, high = peer["score_difference"]
            outcome = verdict(peer["score_difference"])
            difference = in_points((-middle, -high, -low))
            cells.append([data, ours, at_one, title_of(peer), theirs, difference, outcome])
    if scores:
        means = [statistics.mean(column) for column in zip(*scores, strict=True)]
        ours, at_one, theirs = map("{:.4f}".format, means)
        difference = f"{100 * (means[0] - means[2]):+.2f}"
        cells.append(["mean", ours, at_one, "", theirs, difference, ""])
    return cells


# Columns of the table of ratios: a peer, a figure, and the heading; ours is divided by theirs.
RATIOS = (
    ("LinearSVC", "fit_s", "fit / LinearSVC"),
    ("LogisticRegression", "fit_s", "fit / LogisticRegression"),
    ("napkinXC-PLT", "fit_s", "fit / napkinXC-PLT"),
    ("MLPClassifier", "epoch_s", "epoch / MLPClassifier"),
    ("LogisticRegression", "predict_proba_us", "proba / LogisticRegression"),
    ("MLPClassifier", "predict_proba_us", "proba / MLPClassifier"),
    ("LogisticRegression", "predict_proba_one_us", "one row proba / LogisticRegression"),
    ("LogisticRegression", "model_bytes", "size / LogisticRegression"),
    ("napkinXC-PLT", "model_bytes", "size / napkinXC-PLT"),
)


def ratio_table(results):
    """Return a row per data set of our time or size divided by a peer's."""
    cells = [["data", *(heading for *_, heading in RATIOS)]]
    for data in results["data"]:
        rows = rows_by_title(results, data)
        if OURS in rows:
            pairs = ((rows.get(peer, {}).get(key), rows[OURS].get(key)) for peer, key, _ in RATIOS)
            texts = [f"{ours / theirs:.3g}" if theirs and ours else "-" for theirs, ours in pairs]
            cells.append([data, *texts])
    return cells


def model_table(results):
    """Return a row per model: its score against ours over the sets where both ran."""
    heading = ["model", "sets", "mean score minus ours, points", "better", "level", "worse"]
    cells = [[*heading, "mean ECE", "ours on these sets"]]
    both = {}
    for data in results["data"]:
        rows = rows_by_title(results, data)
        for title, row in rows.items():
            if title != OURS and OURS in rows:
                both.setdefault(title, []).append((row, rows[OURS]))
    for title, pairs in both.items():
        outcomes = [verdict(row["score_difference"]) for row, _ in pairs]
        difference = statistics.mean(row["score_difference"][0] for row, _ in pairs)
        counts = [str(outcomes.count(name)) for name in ("loss", "level", "win")]
        calibrated = [pair for pair in pairs if "ece" in pair[0] and "ece" in pair[1]]
        errors = ["-", "-"]
        if calibrated:
            columns = zip(*calibrated, strict=True)
            errors = [f"{statistics.mean(r['ece'] for r in column):.3f}" for column in columns]
        cells.append([title, str(len(pairs)), f"{100 * difference:+.2f}", *counts, *errors])
    return cells


def winners_table(results):
    """Return a row per data set with the best model of every column."""
    columns = [column for column in COLUMNS if column.best]
    cells = [["data", *(column.heading for column in columns)]]
    for data in results["data"]:
        rows = rows_by_title(results, data)
        names = []
        for column in columns:
            having = {
                title: row[column.key]
                for title, row in rows.items()
                if row.get(column.key) is not None
            }
            names.append(column.best(having, key=having.get) if having else "-")
        if rows:
            cells.append(
                [data, *(f"**{name}**" if name.startswith(OURS) else name for name in names)]
            )
    return cells


def machine_lines(conditions):
    """Return machine, versions and settings as a Markdown list."""
    machine, settings = conditions["machine"], conditions["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return [
        f"- Machine: {machine['processor']}, {machine['cores']} cores, {machine['system']}",
        f"- Versions: Python {machine['python']}, {versions}",
        f"- Threads: {settings['threads']} for every model that can use them; seed "
        f"{settings['seed']}; X in {settings['dtype']}",
        f"- Medians over {settings['repeats']} repeats, fewer where they would take more than "
        f"{settings['budget']:g} s; date {machine['date']}",
    ]


def differs(facts, results):
    """Return whether a data set was run under other conditions than those at the top."""
    own = machine_lines({**results, **facts})
    return "missing" not in facts and own != machine_lines(results)


def summaries(results):
    """Return heading, table and remark of every table over all data sets."""
    everyone = set(MODELS) - {OURS}
    tuned = (
        "Against the best tuned linear model",
        accuracy_table(results, tuned_peers),
        "The best peer is that with the highest test score of the linear models tuned by "
        "cross-validation and, from 50 classes on, of napkinXC. This choice favours the peers. "
        "*Win* and *loss* are differences whose interval excludes zero.",
    )
    has_tuned = any(row["model"].endswith("-cv") for row in results["results"])
    return [
        *([tuned] if has_tuned else []),
        (
            "Against the best of all peers",
            accuracy_table(results, lambda facts: everyone),
            "The best peer is that with the highest test score of all that ran. This choice "
            "favours the peers. *Win* and *loss* are differences whose interval excludes zero.",
        ),
        (
            "Against each model",
            model_table(results),
            "*Better* and *worse* count the sets on which the model is better or worse than ours, "
            "*level* those where the interval of the difference contains zero.",
        ),
        (
            "Time and size, ours divided by theirs",
            ratio_table(results),
            "Below 1, ours is faster or smaller. Above 1, it is slower or larger.",
        ),
        ("The best of every column", winners_table(results), "Ours is in bold."),
    ]


def peer_differences(results):
    """Return a row per data set: label, ours minus the best tuned linear peer, the interval."""
    rows = []
    for data, facts in results["data"].items():
        found = rows_by_title(results, data)
        peer = best_peer(found, tuned_peers(facts)) if OURS in found else None
        if peer:
            middle, low, high = peer["score_difference"]
            rows.append((f"{data}: {title_of(peer)}", -middle, -high, -low))
    return rows


def build_page(results, stem="benchmarks"):
    """Return the page of the pictures and of the tables over all data sets."""
    parts = [
        "# Benchmarks",
        "This page is generated from the results of `examples/benchmarks/compare.py` by "
        "`examples/benchmarks/report.py`; do not edit it. All models used the same rows of the "
        "same TF-IDF matrix, and fastText used the texts. All results are here, none is left out: "
        f"[every data set]({stem}_sets.md) has a table of its own.",
        "## Accuracy",
        f"![Ours minus the best tuned linear model, with intervals]({stem}_accuracy.svg)",
        "`SparseExpertClassifier()` minus the best tuned linear model of each data set; from 50 "
        "classes on, napkinXC counts among them. Right of zero, ours is better. The lines are "
        "95 % intervals.",
        "## Accuracy, time and size",
        f"![Score against time and size, relative to ours]({stem}_costs.svg)",
        "A point is the mean over the data sets where both the model and ours ran. It is "
        "hollow if the model was tuned by cross-validation, and a triangle if it lies below "
        "the picture.",
    ]
    parts.append("## Tables")
    for heading, cells, remark in summaries(results):
        parts += [f"### {heading}", remark, as_markdown(cells)]
    parts += ["## Conditions", "\n".join(machine_lines(results))]
    alone = [name for name, facts in results["data"].items() if differs(facts, results)]
    if alone:
        names = ", ".join(alone)
        sections = f"[their sections]({stem}_sets.md)"
        parts.append(f"Run separately, under the conditions in {sections}: {names}.")
    return "\n\n".join(parts) + "\n"


def build_data_sets_page(results, stem="benchmarks"):
    """Return the page with a table per data set, and what models and columns are."""
    models = {row["model"]: row["note"] for row in results["results"] if "note" in row}
    parts = [
        "# Benchmarks: every data set",
        f"All figures behind [the pictures and tables]({stem}.md), generated as they are.",
        *(part for data in results["data"] for part in data_set_section(results, data)),
        "## The models",
        "\n".join(f"- {name}: {note}" for name, note in models.items()),
        "## What the columns mean",
        MEANING.strip(),
    ]
    return "\n\n".join(parts) + "\n"


def data_set_section(results, data):
    """Return the parts of the page on one data set."""
    facts = results["data"][data]
    if "missing" in facts:
        return [f"## {data}", "Not run: the data set was not on the machine."]
    rows = [row for row in results["results"] if row["data"] == data]
    ran = [row for row in rows if "failed" not in row]
    notes = "\n".join(f"- {note}" for note in note_lines(rows))
    parts = [f"## {data}", describe_data_set(facts), as_markdown(format_cells(ran)), notes]
    if differs(facts, results):
        parts.insert(2, "\n".join(["Run separately:", "", *machine_lines(facts)]))
    return parts


def main(results_file, page_file):
    """Write the two pages and their pictures."""
    results = json.loads(Path(results_file).read_text(encoding="utf-8"))
    page = Path(page_file)
    draw_differences(peer_differences(results), page.with_name(f"{page.stem}_accuracy.svg"))
    draw_figure(results, page.with_name(f"{page.stem}_costs.svg"))
    page.write_text(build_page(results, page.stem), encoding="utf-8")
    details = page.with_name(f"{page.stem}_sets.md")
    details.write_text(build_data_sets_page(results, page.stem), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
