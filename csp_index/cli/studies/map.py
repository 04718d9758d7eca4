"""The command that places the neurons of layers on maps: map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from csp_index.cli.options import (
    encoder_option,
    json_option,
    opened,
    opening_options,
    read_database,
    seed_option,
    whole,
)
from csp_index.cli.output import progress, say, say_json

if TYPE_CHECKING:
    from csp_index.studies.layer_maps.records import LayerMap

_UNNAMED = "(no label)"


@click.command("map")
@read_database
@click.option("--layer", "layers", default="all", show_default=True, help="MODEL/LAYER, several with commas, or all.")
@seed_option("Seed of the places.")
@click.option(
    "--neighbors",
    type=whole("map-neighbors"),
    default=15,
    show_default=True,
    help="Near neurons that a place rests on: fewer show small groups, more the layer as a whole.",
)
@click.option(
    "--min-dist", type=float, default=0.1, show_default=True, help="How close places may be, 0 (tight) to 1 (even)."
)
@click.option(
    "--cluster-size",
    type=whole("cluster-size"),
    help="Neurons that make a cluster, at least (a fifth of the root of the layer's neurons, 3 or more).",
)
@encoder_option
@click.option("--recompute", is_flag=True, help="Make the map again even if the index has it.")
@opening_options
@json_option
def map_command(db: str, layers: str, as_json: bool, **options: Any) -> None:
    """Place the neurons of a layer on a map, close where they mean alike; find clusters and name them.

    Places are made by UMAP of the neurons' concept vectors, the same for the same seed; clusters by HDBSCAN in the
    space of these vectors, named by the labels that tell them best from the rest of the layer. Needs umap-learn:
    pip install 'csp_index[map]'. Pages show the map once it is stored, and two main directions until then.

    \b
    csp-index map birds.db --layer resnet50/layer4
    csp-index map birds.db --layer all --neighbors 30 --seed 1
    """
    from csp_index.errors import StudyError
    from csp_index.store.addresses import named_layers

    index = opened(db, options)
    named = named_layers(index.store, layers)
    failures = []
    for layer in named:
        try:
            with progress() as report:
                found = index.make_map(layer, progress=report, **options)
        except StudyError as exc:  # of one layer: others may have a map
            failures.append(exc)
            if len(named) > 1:
                say(str(exc), err=True)
            continue
        _say(found, as_json)
    if len(failures) == len(named):
        raise failures[0] if len(named) == 1 else StudyError("none of the layers has a map: the lines above say why")


def _say(found: LayerMap, as_json: bool) -> None:
    if as_json:
        say_json(found.as_json())
    else:
        for one in found.named:
            say(f"{found.layer} cluster {one.cluster}", f"{one.neurons:,}", one.name or _UNNAMED)
    for note in found.notes:
        say(note, err=True)
    if not as_json:
        unclustered = int((found.clusters < 0).sum())
        say(f"{found.layer}: {found.counts()}, {unclustered:,} in none. {found.said()}", err=True)


COMMANDS = (map_command,)
