"""Plots of results, on axes that the caller gives, or on new ones; matplotlib is loaded when one is made.

Each returns its axes, so that titles, limits and files are the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from csp_index.errors import QueryError
from csp_index.printable import printable, shortened
from csp_index.records import Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 40
_GRAY = "0.6"  # of neurons in no cluster
_CYCLE = 10  # colors of matplotlib's styles
_LETTERS = 40  # of a label beside or on the axes: a caption would leave no room for them


def plot_column(rows: pa.Table, column: str, title: str, ax: Axes | None = None) -> Axes:
    """Return axes with the histogram of a numeric column; rows without a finite value are counted in the title.

    Errors: QueryError for a column that is not there, that has no numbers, or no value.
    """
    kinds = {field.name: field.type for field in rows.schema}
    numeric = [name for name, kind in kinds.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
    if column not in numeric:
        raise QueryError(f"column {column!r} has no numbers to plot: expected one of {', '.join(numeric) or 'none'}")
    values = np.asarray(rows[column].to_numpy(zero_copy_only=False), np.float64)
    known = values[np.isfinite(values)]
    if not len(known):
        holding = [name for name in numeric if rows[name].null_count < len(rows)]
        advice = f"expected one of {', '.join(holding)}" if holding else "label the neurons first"
        raise QueryError(f"column {column!r} has no value in any of {len(values)} rows: {advice}")
    axes = _axes(ax)
    axes.hist(known, bins=_BINS)
    without = f", {len(values) - len(known):,} without" if len(known) < len(values) else ""
    axes.set(
        xlabel=column.replace("_", " "), ylabel="neurons", title=_text(f"{title}: {len(known):,} neurons{without}")
    )
    return axes


def plot_activations(activations: np.ndarray, title: str, ax: Axes | None = None) -> Axes:
    """Return axes with the histogram of one neuron's activations [N] on a logarithmic count, and their mean."""
    axes = _axes(ax)
    axes.hist(activations, bins=_BINS, log=True)
    axes.axvline(float(activations.mean()), linestyle=":", color="black", label="mean")
    axes.set(xlabel="activation", ylabel="images", title=_text(title))
    axes.legend()
    return axes


def plot_scores(label: Label, ax: Axes | None = None) -> Axes:
    """Return axes with a label's candidates by score, the best on top, each with its interval where one is known.

    Errors: QueryError for a label without a score.
    """
    known = [score for score in label.labels if score.number is not None]
    if not known:
        raise QueryError(f"{label.neuron} has no candidate with a score to plot: it is {label.state} by {label.method}")
    axes, places = _axes(ax), np.arange(len(known))
    low, high = (np.array([getattr(one, end) for one in known], np.float64) for end in ("low", "high"))
    axes.hlines(places, low, high, linewidth=2)
    axes.plot([score.score for score in known], places, "o")
    axes.set_yticks(places, [_text(shortened(score.text, _LETTERS)) for score in known])
    axes.invert_yaxis()
    axes.set(xlabel="score", title=_text(f"{label.neuron}, {label.method}"))
    return axes


def plot_map(
    places: np.ndarray, clusters: np.ndarray, named: Sequence[tuple[str, float, float]], title: str, ax: Axes | None
) -> Axes:
    """Return axes with the places [P, 2] of a layer's neurons in [0, 1], in turning colors by cluster [P] (-1: none).

    Names of clusters stand at x and y. Errors: QueryError for a layer of which no neuron has a place.
    """
    if not len(places):
        raise QueryError(f"{title} has no neuron with a place to plot: each of them is dead or has no concept vector")
    axes = _axes(ax)
    colors = [_GRAY if cluster < 0 else f"C{cluster % _CYCLE}" for cluster in clusters.tolist()]
    axes.scatter(places[:, 0], places[:, 1], s=np.clip(4000 / len(places), 2, 36), c=colors, linewidths=0)
    for name, x, y in named:
        text = axes.text(x, y, _text(shortened(name, _LETTERS)), ha="center", va="bottom", fontsize="small")
        text.set_bbox({"facecolor": "white", "alpha": 0.7, "pad": 1, "linewidth": 0})
    axes.set(aspect="equal", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xticks=[], yticks=[], title=_text(title))
    return axes


def _text(value: str) -> str:
    """Return a text of an index as matplotlib shows it, on one line: a dollar would begin a formula."""
    return printable(value).replace("$", r"\$")


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]
