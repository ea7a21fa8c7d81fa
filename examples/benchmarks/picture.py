"""Draw the picture of a comparison: score against time and size, relative to ours."""

import statistics

from peers import OURS

PANELS = (
    ("fit_s", "fit time"),
    ("predict_us", "prediction time, in bulk"),
    ("model_bytes", "size of the saved model"),
)
COLOURS = {
    "LinearSVC": "tab:blue",
    "SGD-log_loss": "tab:orange",
    "SGD-modified_huber": "tab:olive",
    "LogisticRegression": "tab:green",
    "ComplementNB": "tab:red",
    "MLPClassifier": "tab:purple",
    "skorch": "tab:brown",
    "fastText": "tab:pink",
    "napkinXC-PLT": "tab:cyan",
    "napkinXC-HSM": "tab:gray",
}
LOWEST = -12  # points; a model with a lower score is drawn at this height, as a triangle


def draw_figure(results, path):
    """Draw a panel each for fit time, prediction time and size, and save them to `path`.

    A point is a model. To the left of 1 it is faster or smaller than ours, above 0 it is more
    accurate. Its coordinates are means over the data sets where both ran, geometric means for
    ratios. A filled point has fixed parameters, a hollow one was tuned by cross-validation.
    """
    series = relative_to_ours(results)
    figure = make_figure(10, 4.6)
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (key, label) in zip(panels, PANELS, strict=True):
        draw_panel(axes, key, series)
        axes.set_xlabel(f"{label}, ours = 1")
    panels[0].set_ylabel("score minus ours, points")
    handles, labels = panels[0].get_legend_handles_labels()
    legend = {"loc": "outside lower center", "ncols": 5, "fontsize": 8, "frameon": False}
    figure.legend(handles, labels, **legend)
    save(figure, path)


def draw_differences(rows, path):
    """Draw a line per data set: ours minus a peer, with its interval; save them to `path`.

    `rows` holds tuples of a label, the difference and the ends of its interval, in shares.
    """
    figure = make_figure(8, 0.8 + 0.3 * len(rows))
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    for place, (_, *interval) in enumerate(rows):
        middle, low, high = (100 * end for end in interval)
        colour = "tab:blue" if low > 0 else "tab:orange" if high < 0 else "0.5"
        axes.plot([low, high], [place, place], color=colour)
        axes.plot(middle, place, "o", color=colour)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("score, ours minus that of the peer, points")
    save(figure, path)


def make_figure(width, height):
    """Return a figure that needs no screen."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('a figure needs matplotlib: pip install "skparse[plot]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def save(figure, path):
    """Save a figure; the same figure gives the same SVG."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "skparse"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def draw_panel(axes, key, series):
    """Draw the score against one quantity for all models."""
    for (model, reading), figures in series.items():
        style = style_of(model, reading)
        if figures["points"] < LOWEST:
            style["marker"] = "v"
        height = max(figures["points"], LOWEST)
        axes.plot(figures[key], height, linestyle="none", **style)
        if reading == "top_k=1":
            place = {"xytext": (4, -10), "textcoords": "offset points", "fontsize": 8}
            axes.annotate("K=1", (figures[key], height), **place)
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.axvline(1, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.margins(x=0.08)
    label_powers(axes.xaxis)


def label_powers(axis):
    """Label a log axis with plain numbers, at most 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def style_of(model, reading):
    """Return marker and legend entry of a model; all top_k of ours share one entry."""
    if model == OURS:
        label = "_" if reading else OURS
        return {
            "marker": "*",
            "color": "black",
            "markersize": 6 if reading else 13,
            "label": label,
        }
    name = model.removesuffix("-cv")
    face = COLOURS[name] if model == name else "none"
    return {"marker": "o", "color": COLOURS[name], "markerfacecolor": face, "label": model}


def relative_to_ours(results):
    """Return the mean score difference and mean ratios to ours, per model and top_k."""
    ran = [row for row in results["results"] if "failed" not in row]
    ours = {row["data"]: row for row in ran if row["model"] == OURS and not row["reading"]}
    pairs = {}
    for row in ran:
        if row["data"] in ours:
            name = row["model"], row["reading"]
            pairs.setdefault(name, []).append((row, ours[row["data"]]))
    series = {}
    for name, both in pairs.items():
        figures = {
            key: statistics.geometric_mean(row[key] / our[key] for row, our in both)
            for key, _ in PANELS
        }
        figures["points"] = 100 * statistics.mean(row["score"] - our["score"] for row, our in both)
        series[name] = figures
    return series
