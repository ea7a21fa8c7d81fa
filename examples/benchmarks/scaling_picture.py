"""Draw the picture of scaling.py: time and memory against each size."""

from picture import label_powers

ROWS = (
    ("seconds", 1, (("fit_s", "fit", "tab:blue"), ("predict_s", "predict_proba", "tab:orange"))),
    ("peak MB", 1e6, (("fit_bytes", "fit", "tab:blue"), ("X_bytes", "X", "tab:gray"))),
)


def draw_figure(results, path):
    """Draw a column per range, time above memory, on log axes; save them to `path`.

    The dotted line is linear growth through the largest size of the first series.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('a figure needs matplotlib: pip install "skparse[plot]"') from error
    ranges = results["ranges"]
    figure = Figure(figsize=(2.9 * len(ranges) + 0.6, 5.2), layout="constrained")
    panels = figure.subplots(2, len(ranges), sharey="row", sharex="col", squeeze=False)
    for column, (name, measured) in zip(panels.T, ranges.items(), strict=True):
        points = [point for point in measured["points"] if "failed" not in point]
        for axes, (_, unit, series) in zip(column, ROWS, strict=True):
            draw_panel(axes, [point[name] for point in points], points, unit, series, measured)
        column[-1].set_xlabel("nonzeros per row" if name == "nonzeros" else name)
    for axes, (label, *_) in zip(panels[:, 0], ROWS, strict=True):
        axes.set_ylabel(label)
    figure.savefig(path, dpi=150)


def draw_panel(axes, sizes, points, unit, series, measured):
    """Draw the series of one panel with their exponents."""
    if not points:
        return
    for key, label, colour in series:
        values = [point[key] / unit for point in points]
        exponent = measured["exponents"].get(key)
        label = label if exponent is None else f"{label}, exponent {exponent:.2f}"
        axes.plot(sizes, values, marker="o", markersize=4, color=colour, label=label)
    steepest = [points[-1][series[0][0]] / unit * size / sizes[-1] for size in sizes]
    axes.plot(sizes, steepest, linestyle=":", color="0.6", zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    label_powers(axes.xaxis)
    axes.legend(fontsize=8, frameon=False)
