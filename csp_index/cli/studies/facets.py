"""The command that says which meanings neurons have: facets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from csp_index.cli.options import (
    candidate_texts,
    database,
    encoder_option,
    json_option,
    neuron_options,
    opened,
    opening_options,
    text_options,
    vocabulary_option,
)
from csp_index.cli.output import progress, say, say_json
from csp_index.printable import printable

if TYPE_CHECKING:
    from csp_index.studies.meanings.facets import LayerFacets


@click.command()
@database
@neuron_options
@vocabulary_option
@text_options
@encoder_option
@click.option("--several", is_flag=True, help="Print only neurons with several meanings, the clearest first.")
@click.option("--recompute", is_flag=True, help="Find the facets again even if the index has them.")
@opening_options
@json_option
def facets(db: str, layer: str, neurons: str, several: bool, as_json: bool, **options: Any) -> None:
    """Find the meanings of neurons: one for most, several for some, each with a label and its images.

    The images that fire a neuron are divided by the texts that explain them. A neuron has several facets only if enough
    of the images that show the label of each fire it, and that label says little of the others, against similar silent
    images. An interrupted run goes on where it stopped.

    A run with other settings replaces the facets of the neurons it is given; pages show the newest settings alone, so
    give it the whole layer again.

    \b
    csp-index facets birds.db --layer resnet50/layer4
    csp-index facets birds.db --layer resnet50/layer4 --neurons 0-63 --several --json
    """
    from csp_index.store.addresses import parse_neurons

    texts = candidate_texts(options)
    index = opened(db, options)
    with progress() as tell:
        result = index.facets(parse_neurons(layer, neurons), vocabulary=texts, progress=tell, **options)
    _say(result, several, as_json)


def _say(result: LayerFacets, several: bool, as_json: bool) -> None:
    divided = result.several()
    for one in divided if several else result.neurons():
        if as_json:
            say_json(one.as_json(result.layer))
            continue
        parts = [f"{facet.label} ({len(facet.images)} images)" for facet in one.facets]
        say(f"{result.layer}/{one.neuron}", *(map(printable, parts) if parts else ["(no image activates it)"]))
    if not as_json:
        say(f"{len(divided):,} of {len(result):,} neurons have several meanings", err=True)


COMMANDS = (facets,)
