"""The command that compares neurons with classes of images: associations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from csp_index.cli.options import json_option, layer_option, read_database, top_option, version_option, whole
from csp_index.cli.output import progress, say, say_json

if TYPE_CHECKING:
    from csp_index.studies.classes.associations import Associations

_PERCENT = 100
_SHOWN = 3  # classes that a line names
_CHANCE = "no AUROC is above 0.5 by more than chance"


@click.command()
@read_database
@layer_option
@click.option("--by", required=True, help="Metadata column, or outputs:MODEL/LAYER: the output highest on an image.")
@click.option("--class", "name", help="Only this class.")
@click.option("--neuron", type=whole("neuron"), help="Only this neuron: the classes that it tells best.")
@top_option(3, "Neurons per class, or classes.")
@click.option("--classes", type=whole("classes"), help="Keep this many classes, those with the most images (1000).")
@click.option("--bins", type=whole("bins"), help="Divide a column of numbers into bins of as many images each (10).")
@click.option("--firing", help="A neuron fires above this: a number, mean, quantile:Q or max:F (0).")
@click.option("--recompute", is_flag=True, help="Compare again even if the index holds the result.")
@version_option
@json_option
def associations(
    db: str,
    layer: str,
    by: str,
    name: str | None,
    neuron: int | None,
    top: int,
    version: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare neurons with classes of images: which neurons tell which class, and how well.

    AUROC is the chance that an image of the class activates the neuron more than another image: 1 or 0 tell the class
    wholly, 0.5 not at all. Neurons above 0.5 by more than chance are shown, the best first. The index keeps all, with
    the images that speak for and against each: `csp-index serve`, the SQL view `associations`, and --json.

    A column of measured numbers (an age, a size) is divided into bins, which are the classes.

    \b
    csp-index associations birds.db --layer resnet50/layer4 --by species
    csp-index associations birds.db --layer resnet50/layer4 --by outputs:resnet50/fc --neuron 77
    """
    from csp_index.index import open_index

    if name is not None and neuron is not None:
        raise click.UsageError("--class and --neuron do not go together: give one of them")
    index = open_index(db, version=version)
    with progress() as tell:
        result = index.associations(layer, by, progress=tell, **options)
    labels = {row["neuron"]: row["text"] for row in index.labels(layer).rows()}
    for row in _selected(result, name, neuron, top):
        row = {**row, "neuron": f"{layer}/{row['neuron']}"}
        label = labels.get(row["neuron"])
        if as_json:
            say_json(_document(row, label))
        else:
            say(*_cells(row, label))
    if untold := _untold(result, name, neuron):
        say(untold, err=True)
    if result.classes.note:
        say(result.classes.note, err=True)


def _selected(result: Associations, name: str | None, neuron: int | None, top: int) -> Iterator[dict[str, Any]]:
    """Yield the rows to be shown: of each class the neurons that tell it best, or of a neuron the classes."""
    from csp_index.studies.classes.associations import telling

    if neuron is not None:
        yield from telling(result.classes, result.of_neuron(neuron))[:top]
        return
    for one in result.classes.names if name is None else (name,):
        yield from telling(result.classes, result.of_class(one, top))


def _untold(result: Associations, name: str | None, neuron: int | None) -> str:
    """Return a line about the classes that no neuron tells, or about a neuron that tells none; or nothing."""
    names, tells = result.classes.names, result.tells
    if neuron is not None:
        return "" if tells[neuron].any() else f"{result.classes.layer}/{neuron} tells none of the classes: {_CHANCE}"
    silent = [one for place, one in enumerate(names) if not tells[:, place].any() and name in (None, one)]
    if not silent:
        return ""
    listed = ", ".join(silent[:_SHOWN]) + (", ..." if len(silent) > _SHOWN else "")
    what = "1 class" if len(silent) == 1 else f"{len(silent):,} classes"
    return f"no neuron tells {what} ({listed}): {_CHANCE}"


def _document(row: dict[str, Any], label: str | None) -> dict[str, object]:
    """Return a row as JSON: its images with their activations, and those that speak against the neuron."""
    from csp_index.studies.classes.associations import association_document, names_class

    return association_document(row) | {"label": label, "names_class": names_class(label, row["class_name"])}


def _cells(row: dict[str, Any], label: str | None) -> list[str]:
    from csp_index.studies.classes.associations import names_class

    rates = " and ".join(f"{_PERCENT * row[side]:.1f} %" for side in ("rate_in", "rate_out"))
    called = "no label" if label is None else label + (" = the class" if names_class(label, row["class_name"]) else "")
    return [
        row["class_name"],
        row["neuron"],
        f"AUROC {row['auroc']:.3f}",
        f"fires on {rates} of images in and outside",
        called,
    ]


COMMANDS = (associations,)
