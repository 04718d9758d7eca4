"""Plots return the axes that they drew on."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from csp_index.errors import QueryError
from csp_index.query.plots import plot_activations, plot_column, plot_map, plot_scores
from csp_index.records import Label, LabelScore, NeuronKey


@pytest.fixture
def axes():
    return Figure().subplots()


def own_axes():
    """Return axes as a plot makes them itself."""
    return Figure(layout="constrained").subplots()


def test_a_column_is_drawn_over_the_rows_that_have_it(axes) -> None:
    rows = pa.table({"score": [0.1, 0.2, None, float("nan")], "text": ["a", "b", "c", None]})
    drawn = plot_column(rows, "score", "m/l", axes)
    assert drawn is axes and drawn.get_title() == "m/l: 2 neurons, 2 without"
    assert sum(bar.get_height() for bar in drawn.patches) == 2
    with pytest.raises(QueryError, match="column 'text' has no numbers to plot: expected one of score"):
        plot_column(rows, "text", "m/l", axes)
    nothing = pa.array([None], pa.float64())
    with pytest.raises(QueryError, match="has no value in any of 1 rows: label the neurons first"):
        plot_column(pa.table({"score": nothing}), "score", "m/l", axes)
    with pytest.raises(QueryError, match=r"has no value in any of 1 rows: expected one of score$"):
        plot_column(pa.table({"score": [0.5], "confidence": nothing}), "confidence", "m/l", axes)


def test_activations_are_counted_and_their_mean_marked(axes) -> None:
    drawn = plot_activations(np.array([0.0, 0.0, 3.0], np.float32), "m/l/0", axes)
    assert drawn is axes and sum(bar.get_height() for bar in drawn.patches) == 3
    assert drawn.lines[0].get_xdata()[0] == 1.0 and drawn.get_yscale() == "log"


def test_candidates_stand_below_each_other_with_intervals(axes) -> None:
    scores = (LabelScore("$x^2$", 0.5, 0.4, 0.6), LabelScore("blue", 0.25))
    drawn = plot_scores(Label(NeuronKey("m", "l", 0), "csp", "labelled", scores), axes)
    drawn.figure.canvas.draw()
    assert [text.get_text() for text in drawn.get_yticklabels()] == [r"\$x^2\$", "blue"]
    assert drawn.lines[0].get_xdata().tolist() == [0.5, 0.25] and drawn.yaxis_inverted()
    with pytest.raises(QueryError, match="m/l/1 has no candidate with a score to plot: it is dead by csp"):
        plot_scores(Label(NeuronKey("m", "l", 1), "csp", "dead"), axes)


@pytest.mark.filterwarnings("error")
def test_captions_leave_room_for_the_axes() -> None:
    """Captions are vocabularies, too; matplotlib would give them the whole width, with a warning."""
    caption = "a photo of " * 30
    drawn = plot_scores(Label(NeuronKey("m", "l", 0), "csp", "labelled", (LabelScore(caption, 0.5),)), own_axes())
    drawn.figure.draw_without_rendering()
    assert drawn.get_position().width > 0.3
    assert drawn.get_yticklabels()[0].get_text() == f"{caption[:39]}…"
    named = plot_map(np.zeros((1, 2), np.float32), np.zeros(1, int), [(caption, 0.5, 0.5)], "m/l", own_axes())
    assert named.texts[0].get_text() == f"{caption[:39]}…"


def test_a_map_has_a_point_a_neuron_and_the_names_of_clusters(axes) -> None:
    places, clusters = np.array([[0.0, 0.1], [0.5, 0.5], [1.0, 0.9]], np.float32), np.array([-1, 0, 11])
    drawn = plot_map(places, clusters, [("$red", 0.5, 0.5)], "m/l: 3 neurons", axes)
    drawn.figure.canvas.draw()
    points = drawn.collections[0]
    assert (
        drawn is axes
        and np.allclose(points.get_offsets(), places)
        and len(np.unique(points.get_facecolor(), axis=0)) == 3
    )
    assert [text.get_text() for text in drawn.texts] == [r"\$red"] and drawn.get_title() == "m/l: 3 neurons"
    with pytest.raises(QueryError, match="m/l has no neuron with a place to plot"):
        plot_map(places[:0], clusters[:0], [], "m/l", axes)


@pytest.mark.parametrize("name", [r"m/$\frac$/0", "m/l\u202e/0"])
def test_any_name_makes_a_title(name: str, axes) -> None:
    drawn = plot_activations(np.zeros(3, np.float32), name, axes)
    drawn.figure.draw_without_rendering()  # a formula that matplotlib cannot read is an error only here
    assert "\u202e" not in drawn.get_title()


def test_without_axes_new_ones_are_made(monkeypatch) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    drawn = plot_activations(np.zeros(3, np.float32), "m/l/0")
    assert drawn.figure.number in pyplot.get_fignums()
    pyplot.close(drawn.figure)
