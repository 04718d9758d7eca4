"""The command that looks for logical labels: formulas."""

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
    seed_option,
    text_options,
)
from csp_index.cli.output import progress, say, say_json
from csp_index.printable import printable

if TYPE_CHECKING:
    from csp_index.studies.meanings.formulas import LayerFormulas


@click.command()
@database
@neuron_options
@click.option(
    "--by", multiple=True, metavar="COLUMN", help="Concepts are the values of this metadata column; repeat for more."
)
@click.option("--vocabulary", help="Concepts are these texts, as for `csp-index label`; by default the last ones used.")
@text_options
@encoder_option
@click.option("--firing", help="An image fires a neuron above this: a number, mean, quantile:Q or max:F (0).")
@seed_option("Draws the images that are held out.")
@click.option("--all", "every", is_flag=True, help="Print neurons without a formula that helps, too.")
@click.option("--recompute", is_flag=True, help="Look for the formulas again even if the index has them.")
@opening_options
@json_option
def formulas(db: str, layer: str, neurons: str, every: bool, as_json: bool, **options: Any) -> None:
    """Look for logical labels of neurons: concepts joined by AND, OR, AND NOT, three at most.

    Of half of the images a formula is chosen whose images are most nearly those that fire the neuron. It counts if it
    explains activations on the other half better than the best concept alone, by more than the bootstrap interval. An
    interrupted run goes on where it stopped.

    A run with other settings replaces the formulas of the neurons it is given; pages show the newest settings alone, so
    give it the whole layer again.

    \b
    csp-index formulas birds.db --layer resnet50/layer4
    csp-index formulas birds.db --layer resnet50/layer4 --by species --by habitat --firing quantile:0.95
    """
    from csp_index.store.addresses import parse_neurons

    texts = candidate_texts(options)
    index = opened(db, options)
    with progress() as tell:
        result = index.formulas(parse_neurons(layer, neurons), vocabulary=texts, progress=tell, **options)
    _say(result, every, as_json)


def _say(result: LayerFormulas, every: bool, as_json: bool) -> None:
    from csp_index.studies.meanings.formulas import formula_document

    kept = result.kept()
    for row in result.rows.to_pylist() if every else kept:
        one = formula_document(row)
        if as_json:
            say_json(one)
            continue
        cells = [one["neuron"], printable(one["formula"] or one["single"] or "(fires on too few images)")]
        if one["formula"] is not None:
            between = f"{one['low']:+.3f} to {one['high']:+.3f}"
            cells += [f"IoU {one['iou']:.2f}", f"correlation {one['correlation']:.2f}"]
            cells += [f"{one['gain']:+.3f} ({between}) over {printable(one['single'])}"]
        say(*cells)
    if not as_json:
        say(f"{len(kept):,} of {len(result):,} neurons are told better by a formula than by one concept", err=True)


COMMANDS = (formulas,)
