"""The command that says what neurons do to a network's logits: effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from csp_index.cli.options import (
    database,
    json_option,
    logit_options,
    neuron_options,
    opened,
    opening_options,
    seed_option,
    top_option,
    whole,
)
from csp_index.cli.output import progress, say, say_json

if TYPE_CHECKING:
    from csp_index.studies.effects.stored_effects import LayerEffects


@click.command()
@database
@neuron_options
@click.option(
    "--by",
    type=click.Choice(["linear", "zero", "mean"]),
    help="linear: weight x activation, exact; zero, mean: one neuron at a time is set to it. By default linear where "
    "a linear head reads the layer, else mean.",
)
@click.option(
    "--sample", type=whole("sample"), default=512, show_default=True, help="zero, mean: images, a random draw."
)
@seed_option("Seed of that draw.")
@click.option("--column", help="Metadata column with each image's class (by default what the network says).")
@logit_options
@top_option(3, "Classes to print per neuron.")
@click.option("--recompute", is_flag=True, help="Compute the effects again even if the index has them.")
@opening_options
@json_option
def effects(db: str, layer: str, neurons: str, top: int, as_json: bool, **options: Any) -> None:
    """Say what neurons do to the network's output: their effect on the logit of each class.

    The effect is the neuron's part in the logit on images of the class, minus that on the others. It is exact where a
    linear head reads the layer; elsewhere the network runs with one neuron at a time set to its mean, or to zero. An
    interrupted run goes on where it stopped.

    \b
    csp-index effects birds.db --layer resnet50/layer4
    csp-index effects birds.db --layer resnet50/layer3 --neurons 0-63 --by zero --sample 256
    """
    from csp_index.store.addresses import parse_neurons

    index = opened(db, options)
    with progress() as tell:
        result = index.effects(parse_neurons(layer, neurons), progress=tell, **options)
    for place in range(len(result)):
        _say(result, place, top, as_json)
    if not as_json:
        say(result.how, err=True)


def _say(result: LayerEffects, place: int, top: int, as_json: bool) -> None:
    address, rows = f"{result.layer}/{int(result.neurons[place])}", result.rows(place, top)
    if as_json:
        exact = result.check is not None
        say_json({"neuron": address, "by": result.by, "exact": exact, "images": result.images, "effects": rows})
        return
    cells = []
    for row in [row for row in rows if row["effect"]]:
        name = row["class_name"] or f"class {row['class_index']}"
        between = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
        cells.append(f"{name} {row['effect']:+.3g}{between}")
    say(address, *(cells or ["(it changes no logit on these images)" if rows else "(no class has images)"]))


COMMANDS = (effects,)
